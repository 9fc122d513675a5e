//! What affinity adds to a request, step by step, and what a million sessions take.
//!
//! Nanoseconds a call on one core, the least of several rounds: what else runs on the machine can
//! only add to it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_userspace::affinity::{Cache, Keyring, Ledger, Quota, Sealed, SessionId, Store};
use lb_userspace::balance::Random;
use lb_userspace::model::Timestamp;

/// Sessions that are remembered while the store is measured.
const SESSIONS: usize = 1_000_000;

const TTL: Duration = Duration::from_secs(1800);
const NOW: Timestamp = Timestamp(5_000_000);

/// A step and its cost.
#[derive(Clone, Debug)]
pub struct Cost {
    /// What is done.
    pub step: &'static str,
    /// Nanoseconds a call.
    pub nanoseconds: f64,
}

/// The least time that a call of `step` takes on average, of `rounds` rounds.
fn measure(name: &'static str, rounds: u32, mut step: impl FnMut(usize)) -> Cost {
    const CALLS: usize = 20_000;
    let round = |step: &mut dyn FnMut(usize)| {
        let begun = Instant::now();
        (0..CALLS).for_each(step);
        begun.elapsed().as_secs_f64() * 1e9 / CALLS as f64
    };
    let least = (0..rounds)
        .map(|_| round(&mut step))
        .fold(f64::MAX, f64::min);
    Cost {
        step: name,
        nanoseconds: least,
    }
}

/// Measures every step.
///
/// # Errors
/// When the system has no random numbers.
pub fn costs(rounds: u32) -> Result<Vec<Cost>> {
    let random = Random::new(7);
    let id = b"3f2c7a90-1b1e-4c0e-9a77-0d6f1f0a5b21";
    let mut costs = vec![measure("id of 36 bytes to a session", rounds, |_| {
        black_box(SessionId::of(black_box(id)));
    })];

    let store = Store::new(SESSIONS);
    let sessions: Vec<SessionId> = (0..SESSIONS)
        .map(|_| SessionId(u128::from(random.bits()) << 64 | u128::from(random.bits())))
        .collect();
    for session in &sessions {
        store.pin(*session, 1, 2, None, TTL, NOW);
    }
    costs.push(measure("find one of 1,000,000 sessions", rounds, |_| {
        let session = sessions[random.below(SESSIONS)];
        black_box(store.get(session, 1, TTL, NOW));
    }));
    costs.push(measure(
        "pin a new session, the store being full",
        rounds,
        |_| {
            let session = SessionId(u128::from(random.bits()) << 64 | u128::from(random.bits()));
            black_box(store.pin(session, 1, 2, None, TTL, NOW));
        },
    ));

    let ring = Keyring::new([&[7; 32][..]])?;
    let sealed = Sealed {
        session: sessions[0],
        instance: 9,
        issued: 1_700_000_000,
    };
    let cookie = ring.seal(&sealed, "main-backend")?;
    costs.push(measure("make a cookie", rounds, |_| {
        drop(black_box(ring.seal(black_box(&sealed), "main-backend")));
    }));
    costs.push(measure("open a cookie", rounds, |_| {
        black_box(ring.open(black_box(cookie.as_bytes()), "main-backend"));
    }));
    let mut cache = Cache::default();
    let texts: Vec<String> = (0..1000).map(|n| format!("{cookie}{n}")).collect();
    costs.push(measure(
        "look up a cookie that was opened before",
        rounds,
        |n| {
            let text = texts[n % texts.len()].as_bytes();
            black_box(cache.get_or(1, text, || Some(sealed)));
        },
    ));
    let mut cache = Cache::default();
    let token = |number: u32| [&[b'x'; 800][..], &number.to_be_bytes()].concat();
    let tokens: Vec<Vec<u8>> = (0..500).map(token).collect();
    costs.push(measure(
        "look up a token of 800 bytes that was verified before",
        rounds,
        |n| {
            black_box(cache.get_or(1, &tokens[n % tokens.len()], || Some(n)));
        },
    ));

    let quotas = [Quota {
        position: 0,
        identity: 1,
        share: 0.05,
    }];
    let mut ledger = Ledger::default();
    costs.push(measure(
        "account of an instance that recovers",
        rounds,
        |_| {
            ledger.ask(&quotas, NOW);
            let goes = ledger.demands(&quotas, |_| true).unwrap_or(1);
            black_box(ledger.refuses(&quotas, goes));
            ledger.give(&quotas, goes);
        },
    ));
    Ok(costs)
}

/// Loads a million sessions and lets them expire: megabytes of the process's memory, of the store's
/// own account, and seconds for both.
///
/// # Errors
/// When the system does not say how much memory the process has.
pub fn million() -> Result<[f64; 4]> {
    let store = Store::new(SESSIONS);
    let before = resident()?;
    let begun = Instant::now();
    let mut id = *b"session-0000000000000000";
    for number in 0..SESSIONS {
        id[8..].copy_from_slice(format!("{number:016x}").as_bytes());
        store.pin(SessionId::of(&id), 1, 2, None, TTL, NOW);
    }
    let loaded = begun.elapsed().as_secs_f64();
    let resident = resident()?.saturating_sub(before) as f64 / 1e6;
    let account = store.memory() as f64 / 1e6;
    let begun = Instant::now();
    store.sweep(usize::MAX, NOW + TTL + Duration::from_secs(1));
    let expired = begun.elapsed().as_secs_f64();
    anyhow::ensure!(store.is_empty(), "{} are left", store.len());
    Ok([resident, account, loaded, expired])
}

fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.context("expected VmRSS in /proc/self/status, found none")?;
    Ok(text.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Measures everything and prints it.
///
/// # Errors
/// See [`costs`] and [`million`].
#[expect(clippy::print_stdout, reason = "what a benchmark is for")]
pub fn run(rounds: u32) -> Result<()> {
    let [resident, account, loaded, expired] = million()?;
    println!(
        "{SESSIONS} sessions: {resident:.1} MB resident ({account:.1} MB of tables), loaded in \
         {loaded:.2} s, expired in {expired:.3} s\n"
    );
    println!("{:<56} {:>8}", "step", "ns");
    for cost in costs(rounds)? {
        println!("{:<56} {:>8.0}", cost.step, cost.nanoseconds);
    }
    Ok(())
}
