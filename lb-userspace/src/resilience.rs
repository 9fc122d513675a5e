//! What keeps traffic away from instances that do not serve it well: pure state machines and
//! functions, with the clock as an argument.

pub mod admission;
pub mod breaker;
pub mod budget;
pub mod concurrency;
pub mod factor;
pub mod hedge;
pub mod outage;
pub mod outlier;
pub mod queue;
pub mod rate_limit;
pub mod recovery;
pub mod reported;
pub mod retry;
pub mod score;
pub mod slow_start;
pub mod weight;

pub use admission::{Admission, Seat};
pub use breaker::{Cause, Hold, Permit, Report, Verdict};
pub use budget::Budget;
pub use factor::{Measurement, factors};
pub use hedge::Hedging;
pub use outage::Silence;
pub use outlier::Ejection;
pub use queue::{Queue, Waiter};
pub use rate_limit::RateLimiter;
pub use recovery::{Progress, Recovery};
pub use reported::{Reported, reported_factors};
pub use score::{Evidence, recent_success, scores};
pub use slow_start::Ramp;
pub use weight::{Factors, UNIT, WHOLE, WeightInputs, effective_weight};
