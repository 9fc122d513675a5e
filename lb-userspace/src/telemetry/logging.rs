//! The daemon's log: on standard error, as text for people or one JSON object a line.

use std::{
    io::{self, IsTerminal as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::model::{LogFormat, LogSpec};

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter does not parse.
    #[error(
        "expected a log filter such as info or info,lb_userspace::l4=debug, found {found:?}: {why}"
    )]
    Filter {
        /// What was given.
        found: String,
        /// What is wrong with it.
        why: String,
    },
    /// The log has ended.
    #[error("expected a log whose filter can be changed: {0}")]
    Gone(reload::Error),
    /// Another log was set up before.
    #[error("expected to set up the log once: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// What is logged, which may be changed while the process runs. A clone is another handle to the
/// same.
///
/// What was set at run time holds until it is reset, or until the configuration itself says
/// something else than before: who writes a level into the file means it.
#[derive(Clone, Debug)]
pub struct LogFilter(Arc<Mutex<Filters>>);

#[derive(Debug)]
struct Filters {
    configured: String,
    set: Option<String>,
    /// Where it takes effect; `None` when the log is not this one's.
    handle: Option<Handle>,
}

type Handle = reload::Handle<EnvFilter, Registry>;

/// A filter as it is and as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterInForce {
    /// What holds.
    pub level: String,
    /// What the configuration says.
    pub configured: String,
}

impl LogFilter {
    /// A filter that no log is behind.
    #[must_use]
    pub fn unattached(configured: &str) -> Self {
        Self::new(configured, None)
    }

    fn new(configured: &str, handle: Option<Handle>) -> Self {
        Self(Arc::new(Mutex::new(Filters {
            configured: configured.to_owned(),
            set: None,
            handle,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Filters> {
        // Between any two lines below both are what they should be.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is logged.
    #[must_use]
    pub fn in_force(&self) -> FilterInForce {
        let filters = self.lock();
        FilterInForce {
            level: filters.level().to_owned(),
            configured: filters.configured.clone(),
        }
    }

    /// Logs by another filter until it is reset.
    ///
    /// # Errors
    /// When the filter does not parse; nothing has changed then.
    pub fn set(&self, filter: &str) -> Result<(), LoggingError> {
        let mut filters = self.lock();
        filters.apply(filter)?;
        filters.set = (filter != filters.configured).then(|| filter.to_owned());
        Ok(())
    }

    /// Logs as it is configured again. Whether it did not before.
    pub fn reset(&self) -> bool {
        let mut filters = self.lock();
        let configured = filters.configured.clone();
        // It was parsed when it was configured.
        filters.set.take().is_some() && filters.apply(&configured).is_ok()
    }

    /// Notes what the configuration says now. When that is something else than before, it holds.
    ///
    /// # Errors
    /// When the filter does not parse; nothing has changed then.
    pub fn configure(&self, filter: &str) -> Result<(), LoggingError> {
        let mut filters = self.lock();
        if filters.configured != filter {
            filters.apply(filter)?;
            filter.clone_into(&mut filters.configured);
            filters.set = None;
        }
        Ok(())
    }
}

impl Filters {
    fn level(&self) -> &str {
        self.set.as_deref().unwrap_or(&self.configured)
    }

    fn apply(&self, filter: &str) -> Result<(), LoggingError> {
        let parsed = parse(filter)?;
        if let Some(handle) = &self.handle {
            handle.reload(parsed).map_err(LoggingError::Gone)?;
        }
        Ok(())
    }
}

/// Starts the log of the process on standard error.
///
/// # Errors
/// When the filter does not parse, or on the second call.
pub fn init(spec: &LogSpec) -> Result<LogFilter, LoggingError> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (layer, filter) = layer(spec, io::stderr, colours)?;
    tracing_subscriber::registry().with(layer).try_init()?;
    Ok(filter)
}

/// Checks a filter without setting anything up.
///
/// # Errors
/// When it does not parse.
pub fn check_filter(filter: &str) -> Result<(), LoggingError> {
    parse(filter).map(|_| ())
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|why| LoggingError::Filter {
            found: filter.to_owned(),
            why: why.to_string(),
        })
}

fn layer<W>(
    spec: &LogSpec,
    writer: W,
    colours: bool,
) -> Result<(Box<dyn Layer<Registry> + Send + Sync>, LogFilter), LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(&spec.filter)?);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let layer = match spec.format {
        LogFormat::Text => layer.with_ansi(colours).with_filter(filter).boxed(),
        // Fields stand beside the message, as in the guide's example, not below a "fields" of
        // their own.
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    };
    Ok((layer, LogFilter::new(&spec.filter, Some(handle))))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: LogFormat) -> String {
        let page = Page::default();
        let writer = page.clone();
        let filter = filter.to_owned();
        let spec = LogSpec { filter, format };
        let (layer, _filter) = layer(&spec, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(service = "main-backend", status = 200, "request completed");
            tracing::debug!("details");
        });
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_lines_have_the_fields_beside_the_message() {
        let log = logged("info", LogFormat::Json);
        assert_eq!(log.lines().count(), 1, "{log}");
        let line: serde_json::Value = serde_json::from_str(&log).unwrap();
        assert_eq!(line["message"], "request completed");
        assert_eq!(line["service"], "main-backend");
        assert_eq!(line["status"], 200);
        assert_eq!(line["level"], "INFO");
        humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).unwrap();
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        assert_eq!(logged("debug", LogFormat::Text).lines().count(), 2);
        assert_eq!(
            logged("lb_userspace=info", LogFormat::Text).lines().count(),
            1
        );
        assert_eq!(logged("lb_userspace::l4=debug", LogFormat::Text), "");
        let error = check_filter("info,lb=loud").unwrap_err().to_string();
        assert!(error.contains("\"info,lb=loud\""), "{error}");
    }

    #[test]
    fn the_filter_changes_while_the_log_is_written() {
        let page = Page::default();
        let writer = page.clone();
        let spec = LogSpec {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        };
        let (layer, filter) = layer(&spec, move || writer.clone(), false).unwrap();
        let lines = || {
            tracing::debug!("details");
            let mut page = page.0.lock().unwrap();
            std::mem::take(&mut *page)
                .iter()
                .filter(|b| **b == b'\n')
                .count()
        };
        let in_force = || {
            let FilterInForce { level, configured } = filter.in_force();
            (level, configured)
        };
        let both = |level: &str, configured: &str| (level.to_owned(), configured.to_owned());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert_eq!(lines(), 0);
            filter.set("debug").unwrap();
            assert_eq!((lines(), in_force()), (1, both("debug", "info")));
            filter.set("info,lb=loud").unwrap_err();
            assert_eq!((lines(), in_force()), (1, both("debug", "info")));
            // A configuration that says what it said before leaves it alone.
            filter.configure("info").unwrap();
            assert_eq!((lines(), in_force()), (1, both("debug", "info")));
            assert!(filter.reset());
            assert!(!filter.reset());
            assert_eq!((lines(), in_force()), (0, both("info", "info")));
            filter.set("trace").unwrap();
            filter.configure("warn").unwrap();
            assert_eq!((lines(), in_force()), (0, both("warn", "warn")));
        });
    }
}
