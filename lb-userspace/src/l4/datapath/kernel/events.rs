//! What the program logs, in the daemon's log.
//!
//! The program logs dropped packets, at most one a second for each reason and processor, when
//! `datapath.log` asks for it. The level is a constant of the program: when it is off, the verifier
//! removes the code.

use std::fmt;

use aya::{Ebpf, EbpfLoader};
use aya_log::{EbpfLogger, Level};
use log::{Log, Metadata, Record};

/// Off, and what [`set_level`] sets when logging is wanted.
static LEVELS: [u8; 2] = [0, Level::Warn as u8];

/// Bytes of the ring of messages, of which a hundred and twenty fit: one a second for each reason and
/// processor, taken out once a second.
const RING: u32 = 32 << 10;

/// Tells the program whether to log.
pub(super) fn set_level(loader: &mut EbpfLoader<'_>, is_on: bool) {
    loader.map_max_entries("AYA_LOGS", RING);
    // Not every build of the program has something to say.
    loader.override_global(aya_log::LEVEL, &LEVELS[usize::from(is_on)], false);
}

/// Reads what the program logs.
pub(super) struct Events(Option<EbpfLogger<ToTracing>>);

impl Events {
    /// Events of a loaded program; none when they are not wanted.
    pub(super) fn of(program: &mut Ebpf, is_on: bool) -> Self {
        if !is_on {
            return Self(None);
        }
        match EbpfLogger::init_with_logger(program, ToTracing) {
            Ok(logger) => Self(Some(logger)),
            Err(error) => {
                tracing::warn!(%error, "the log of the program in the kernel cannot be read");
                Self(None)
            }
        }
    }

    /// Logs what has come since the last call.
    pub(super) fn flush(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.flush();
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Events").field(&self.0.is_some()).finish()
    }
}

/// Hands records on to the daemon's own log.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::warn!("in the kernel: {}", record.args());
    }

    fn flush(&self) {}
}
