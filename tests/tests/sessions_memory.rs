//! What a million sessions take of a process's memory. Alone in its process, so that nothing else
//! moves what is measured.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_userspace::affinity::{SessionId, Store, store::SHARDS};
use lb_userspace::model::Timestamp;

const SESSIONS: u64 = 1_000_000;
const TTL: Duration = Duration::from_secs(1800);

/// Memory of this process that is in use, in bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(text.parse::<u64>()? * 1024)
}

#[test]
fn a_million_sessions_are_remembered_in_64_mb_and_expire() -> Result<()> {
    let store = Store::new(SESSIONS as usize);
    let before = resident()?;
    let begun = Instant::now();
    let mut id = *b"session-0000000000000000";
    for number in 0..SESSIONS {
        id[8..].copy_from_slice(format!("{number:016x}").as_bytes());
        let now = Timestamp(number);
        store.pin(SessionId::of(&id), 7, number % 100, None, TTL, now);
    }
    let (loaded, full) = (begun.elapsed(), resident()? - before);
    ensure!(store.len() as u64 == SESSIONS && store.evicted() == 0);
    ensure!(full <= 64 << 20, "{full} bytes for {SESSIONS} sessions");
    // All of them are found, those of the table's own account included.
    for number in (0..SESSIONS).step_by(997) {
        id[8..].copy_from_slice(format!("{number:016x}").as_bytes());
        let found = store.get(SessionId::of(&id), 7, TTL, Timestamp(2_000_000));
        ensure!(found == Some(number % 100), "{number}: {found:?}");
    }
    let begun = Instant::now();
    let later = Timestamp(2_000_000) + TTL + Duration::from_secs(1);
    (0..SHARDS).for_each(|_| store.sweep(1, later));
    ensure!(store.is_empty() && store.expired() == SESSIONS);
    ensure!(store.memory() < 1 << 20, "{} bytes left", store.memory());
    writeln!(
        std::io::stderr(),
        "{SESSIONS} sessions: {:.1} MB resident, loaded in {loaded:.2?}, expired in {:.2?}",
        full as f64 / 1e6,
        begun.elapsed()
    )?;
    Ok(())
}
