//! Plain values: what a service, an instance, a route and a VIP are.
//!
//! Specifications (`*Spec`) are what was asked for; they are immutable and compare by value, so a
//! reload is a comparison. [`Instance`] and [`ServiceStats`] carry what was measured; they are
//! shared by every snapshot that names the instance, which is how counters survive reloads and
//! changes of algorithm.

#[macro_use]
mod labelled;

pub mod access;
pub mod acl;
pub mod admission;
pub mod affinity;
pub mod algorithm;
pub mod api;
pub mod arrivals;
pub mod breaker;
pub mod clock;
pub mod connections;
pub mod daemon;
pub mod discovery;
pub mod endpoint;
pub mod exclusion;
pub mod failures;
pub mod gate;
pub mod gateway_vip;
mod guard;
pub mod history;
pub mod id;
pub mod instance;
pub mod integration;
pub mod learned;
pub mod listener;
pub mod load;
pub mod measure;
pub mod outlier;
pub mod pace;
pub mod prefix;
pub mod rate_limit;
pub mod reason;
pub mod relay;
mod report;
pub mod retry;
pub mod route;
pub mod score;
pub mod served;
pub mod service;
pub mod slow_start;
pub mod tracing;
pub mod url;
pub mod vip;
pub mod window;

pub use access::{LogField, LogFields};
pub use acl::{Acl, AclAction, AclList, AclRule, AclSpec};
pub use admission::{
    ConcurrencySpec, LimitSpec, PRIORITIES, Priority, QueueSpec, UNLIMITED, claim,
};
pub use affinity::{
    AffinitySpec, AffinityStats, Break, Followed, JwtAlgorithm, JwtKey, Refused, SameSite, Secret,
    SecureCookie, SessionSource, SessionSpec,
};
pub use algorithm::{Algorithm, HashKey};
pub use api::{
    AccessSpec, ApiAddress, ApiRates, ClientSpec, Role, SocketOwner, SocketSpec, TlsSpec, TokenSpec,
};
pub use arrivals::{ArrivalRate, ArrivalsSpec};
pub use breaker::{AllOpen, BreakerSpec, BreakersSpec};
pub use clock::{Clock, Timestamp};
pub use connections::{Connection, Connections, InUse, MostConnections, Opened, Want};
pub use daemon::{
    AccessLogSpec, ApiSpec, AuditLogSpec, DaemonSpec, DatapathMode, DatapathSpec, LogFormat,
    LogSpec, MetricsSpec,
};
pub use discovery::{DiscoverySpec, Family, SourceSpec};
pub use endpoint::{Endpoint, EndpointError};
pub use exclusion::Exclusion;
pub use failures::{Alarm, FailureRun};
pub use gate::{BreakerState, Gate, GateState, Step};
pub use gateway_vip::{GatewayVip, ports_by_prefix};
pub use guard::ServiceGuard;
pub use id::{InstanceId, NameError, ServiceName, fingerprint, identity};
pub use instance::{AdminState, Health, InFlight, Instance, Member, Outcome};
pub use integration::{BreakerBackendSpec, IntegrationSpec, MetricsBackendSpec};
pub use learned::{Learned, Lesson};
pub use listener::{GatewaySpec, ListenerSpec};
pub use load::ServiceLoad;
pub use measure::{CheckCounts, KernelTraffic, Measured, PeakEwma};
pub use outlier::{Detector, FailOpenSpec, OutlierSpec};
pub use pace::Pace;
pub use prefix::{IpPrefix, PrefixError};
pub use rate_limit::{RateKey, RateLimitSpec, RateScope};
pub use reason::{Reason, ServiceStats};
pub use relay::{RELAYED_ACL, RelayRefusal, loses_acl, lost_forwarding, lost_limits};
pub use report::{LoadReport, LoadReports, ReportTimes};
pub use retry::{
    HedgeAfter, HedgeEnd, HedgeSpec, MethodSet, RetryCause, RetryRefusal, RetrySpec, RetryStats,
};
pub use route::{HostPattern, PathPattern, RouteSpec};
pub use score::ScoreSpec;
pub use served::{Class, Served, ServedCounts};
pub use service::{
    HealthCheckSpec, InstanceSpec, LoadReportSpec, Probe, RecoverySpec, ServiceSpec, TimeoutSpec,
};
pub use slow_start::SlowStartSpec;
pub use tracing::{TraceBackendSpec, TraceTrust, TracingSpec};
pub use url::HttpUrl;
pub use vip::{Forwarding, Ports, Protocol, UdpFlows, VipSpec, WithoutInstances};
pub use window::WindowSum;
