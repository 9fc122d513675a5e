//! The demo, which is the first that anybody sees of lb, is as good as its word.

use std::process::Command;

use anyhow::{Result, ensure};

#[test]
#[ignore = "needs root"]
fn every_expectation_of_the_demo_is_met() -> Result<()> {
    let done = Command::new(env!("CARGO_BIN_EXE_lb-demo")).output()?;
    ensure!(
        done.status.success(),
        "{}\n{}\n{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
