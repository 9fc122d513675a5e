//! What `lb check` says.

use super::{Faults, Overrides, Sources, load};

/// Arguments of `lb check`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CheckArgs {
    /// Where the configuration comes from; the same as for `lb run`.
    #[command(flatten)]
    pub overrides: Overrides,
    /// List every setting in force and where it was found
    #[arg(long)]
    pub show: bool,
}

/// Loads the configuration as `lb run` would, starts nothing, and says what it amounts to.
///
/// # Errors
/// Every fault that was found, at once.
pub fn check(sources: &Sources, show: bool) -> Result<String, Faults> {
    let config = load(sources)?;
    let summary = config.summary();
    Ok(if show {
        format!("{}\n{summary}\n", config.effective())
    } else {
        format!("{summary}\n")
    })
}
