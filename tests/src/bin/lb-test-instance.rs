//! An instance for tests: answers with its name.

use anyhow::Result;
use clap::Parser;
use lb_tests::instance;

fn main() -> Result<()> {
    instance::serve(instance::Arguments::parse())
}
