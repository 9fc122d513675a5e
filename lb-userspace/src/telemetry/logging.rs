//! The daemon's log: on standard error, as text for people or one JSON object a line.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt as _,
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
    /// Another log was set up before.
    #[error("expected to set up the log once: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts the log of the process on standard error.
///
/// # Errors
/// When the filter does not parse, or on the second call.
pub fn init(spec: &LogSpec) -> Result<(), LoggingError> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = layer(spec, io::stderr, colours)?;
    tracing_subscriber::registry().with(layer).try_init()?;
    Ok(())
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
) -> Result<Box<dyn Layer<Registry> + Send + Sync>, LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = parse(&spec.filter)?;
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    Ok(match spec.format {
        LogFormat::Text => layer.with_ansi(colours).with_filter(filter).boxed(),
        // Fields stand beside the message, as in the guide's example, not below a "fields" of
        // their own.
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
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
        let layer = layer(&LogSpec { filter, format }, move || writer.clone(), false).unwrap();
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
}
