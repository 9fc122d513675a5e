//! Discovery: instances that a source names instead of the configuration.
//!
//! A [`source::Source`] is asked and answers with all the instances that it knows. What is made of the
//! answer is the same for every kind: how long it holds, when the source is asked again, what
//! happens when it does not answer ([`keeper`]); how the answers of several sources become one list
//! and how instances leave it ([`set`]). One task a source asks ([`task`]); one task for all of them
//! ([`follow`]) starts and ends those as the configuration says, and tells the registry, which puts
//! what was found beneath what is configured.
//!
//! Static stability is the rule. A source that is gone, slow, or says that there is nothing keeps
//! what it has said last; only a look that succeeded changes anything. An instance that is not named
//! any more gets nothing new and finishes what it has.
//!
//! Another kind of source, such as etcd, Consul or Kubernetes, is one file that implements
//! [`source::Source`], a variant of [`crate::model::SourceSpec`] and a line in [`source::open`].

mod dns;
mod file;
mod follow;
mod keeper;
mod report;
mod resolver;
mod set;
mod source;
mod srv;
mod task;
mod watch;

pub use follow::run;
pub use report::{Handle, SourceReport, SourceState};
pub(crate) use watch::FileWatch;

#[cfg(test)]
mod tests;
