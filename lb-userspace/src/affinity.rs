//! Session affinity: the same session to the same instance.
//!
//! **What a session is.** A request belongs to the session whose id the first of a service's
//! [`SessionSource`](crate::model::SessionSource)s finds in it ([`source`]). Ids are credentials:
//! whoever knows one may be able to take the session over. So lb keeps none. What it remembers,
//! lists and deletes by is the [`SessionId`], 128 bits of a hash.
//!
//! **Stateless first.** A cookie of lb's own carries the instance under a seal ([`seal`]), and
//! consistent hashing needs the id alone; both cost no memory and give the same answer on every
//! lb with the same keys. Only ids from elsewhere under other algorithms need an entry in the
//! [`Store`].
//!
//! **When an affinity ends.** An instance that is gone, takes no requests, or has failed the
//! request at hand loses the session to another one, within that request. So that the share of an
//! instance that recovers stays what it is to be while every client has its affinity, sessions
//! move for its sake too: [`quota`].
//!
//! Everything here is synchronous and knows neither HTTP nor the clock. What a worker asks again
//! and again and is dear to find out it keeps in a [`Cache`].

mod cache;
pub mod quota;
pub mod seal;
mod session;
pub mod source;
pub mod store;

pub use cache::Cache;
pub use quota::{Ledger, Quota};
pub use seal::{KEY_BYTES, Keyring, Sealed};
pub use session::SessionId;
pub use source::{Claim, Claims};
pub use store::{Entry, Page, Pinned, Store};
