//! `cargo xtask ci`: what must hold before a change lands.

use anyhow::Result;

use crate::{lint, test};

pub(crate) fn run() -> Result<()> {
    lint::run(&lint::Arguments::default())?;
    test::run(&test::Arguments::default())
}
