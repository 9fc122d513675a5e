//! What the kernel's verifier makes of the programs, as a table, and the bounds that they are held to.
//!
//! The verifier walks every way through a program and gives up after a million steps; functions that
//! call each other may use 512 bytes of stack together. Who adds a branch in the wrong place multiplies the
//! ways, and sees it here, in the build that does it, not when there is no room left.
//!
//! A program that follows another one has to ask that one's connection table as well, which it finds
//! reachable only then. So both are loaded.
//!
//! Instructions and steps are told of every loaded program. What the stack is like is told in the
//! verifier's log only, and aya gives that out only of programs that the kernel has not taken. So each
//! program is loaded twice, the first time by a process that may open no more files: the verifier runs
//! to its end and writes its log, and then there is no number to be had for the program.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use lb_common::names;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{step, system};

/// What a program may cost, well below what the kernel allows.
#[derive(Clone, Copy)]
struct Bound {
    program: &'static str,
    steps: u32,
    /// Bytes of stack of the function that uses most.
    frame: u32,
}

const fn bound(program: &'static str, steps: u32, frame: u32) -> Bound {
    Bound {
        program,
        steps,
        frame,
    }
}

/// Every program has its line here.
///
/// 200,000 steps for what holds the whole way of a packet, 150,000 for a part of it, 60,000 for a later stage; whoever needs
/// more looks for a stage of its own first.
const BOUNDS: &[Bound] = &[
    bound(names::PROGRAM, 200_000, 288),
    bound(names::PROGRAM_TC, 300_000, 288),
    bound("lb_encapsulate", 60_000, 288),
    bound("lb_too_big", 150_000, 288),
    bound("lb_icmp", 60_000, 288),
    bound("lb_finish", 60_000, 288),
    bound("lb_refuse", 60_000, 288),
    bound("lb_fragment", 400_000, 288),
    bound("lb_admit", 150_000, 288),
    bound("lb_cookie", 60_000, 288),
    bound("lb_splice", 60_000, 288),
    bound("lb_path_mtu", 60_000, 352),
    bound("lb_record", 60_000, 288),
    bound(names::PROGRAM_PASS, 100, 0),
    bound(names::PROGRAM_REFLECT, 500, 64),
    bound(names::PROGRAM_DECAP, 50_000, 384),
    bound(names::PROGRAM_CLAMP, 50_000, 288),
    bound(names::PROGRAM_STEER, 10_000, 128),
];

/// Steps that any of them may cost while it follows another one, which it does until the daemon starts again.
const MOST_FOLLOWING: u32 = 400_000;

/// Errors of the kernel by which it says that this process may not load programs, or that it knows
/// none.
const NOT_HERE: [rustix::io::Errno; 3] = [
    rustix::io::Errno::PERM,
    rustix::io::Errno::ACCESS,
    rustix::io::Errno::NOSYS,
];

/// What the kernel says of a program.
struct Figures {
    program: String,
    instructions: u32,
    machine_code: u32,
    /// `None` before Linux 5.16.
    steps: Option<u32>,
    /// Steps when the program follows another one, whose connection table it has to ask as well.
    following: Option<u32>,
    /// Bytes of stack of the program and of each of its functions that is not inlined.
    frames: Vec<u32>,
}

/// Loads all programs of the object, prints the table, and fails when a bound is exceeded or the
/// kernel refuses a program. Where nothing can be loaded it says so.
pub(crate) fn check(object: &Path) -> Result<()> {
    if let Err(reason) = system::can_use_kernel() {
        step::note(&format!("SKIPPED: figures of the verifier ({reason})"));
        return Ok(());
    }
    let figures = step::step("the verifier", || match measure(object) {
        Err(error) if is_not_here(&error) => Ok(Err(error)),
        measured => measured.map(Ok),
    })?;
    match figures {
        Ok(figures) => {
            print!("{}", table(&figures));
            judge(&figures)
        }
        Err(error) => {
            step::note(&format!("SKIPPED: figures of the verifier ({error:#})"));
            Ok(())
        }
    }
}

/// Whether it is not the program's fault. The verifier refuses with the numbers of missing rights, but not
/// without a word.
fn is_not_here(error: &anyhow::Error) -> bool {
    let refused = error
        .chain()
        .filter_map(|cause| cause.downcast_ref())
        .any(|error| match error {
            ProgramError::LoadError { verifier_log, .. } => !verifier_log.to_string().is_empty(),
            _ => false,
        });
    if refused {
        return false;
    }
    let errors = error.chain().filter_map(|cause| cause.downcast_ref());
    errors
        .filter_map(rustix::io::Errno::from_io_error)
        .any(|errno| NOT_HERE.contains(&errno))
}

fn measure(object: &Path) -> Result<Vec<Figures>> {
    let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut object = opened(&bytes, 0)?;
    let mut follower = opened(&bytes, 1)?;
    let mut found: Vec<String> = object.programs().map(|(name, _)| name.to_owned()).collect();
    let place = |name: &String| BOUNDS.iter().position(|bound| bound.program == name);
    found.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
    let measured = found.iter().map(|name| {
        let following = program(&mut follower, name)?;
        load(following).with_context(|| format!("the kernel refuses {name} after another one"))?;
        Ok(Figures {
            following: following.info()?.verified_instruction_count(),
            ..of(program(&mut object, name)?, name)?
        })
    });
    measured.collect()
}

/// The object, with or without another connection table before its own.
fn opened(bytes: &[u8], has_former: u8) -> Result<Ebpf> {
    EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        // Small ones of those whose size is the user's to choose.
        .map_max_entries(names::MAP_CONNECTIONS, 1024)
        .map_max_entries(names::MAP_TABLES, 4)
        .override_global(names::HAS_FORMER, &has_former, true)
        .load(bytes)
        .context("cannot load the object")
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    object.program_mut(name).context("no such program")
}

fn of(program: &mut Program, name: &str) -> Result<Figures> {
    let log = without_files(|| load(program))?;
    let frames = match log {
        Err(ProgramError::LoadError { verifier_log, .. }) => frames(&verifier_log.to_string()),
        _ => None,
    };
    load(program).with_context(|| format!("the kernel refuses {name}"))?;
    // Nothing would be above a bound that is compared with nothing.
    let frames = frames.with_context(|| {
        format!("expected the stack depth of {name} in the verifier's log, found no such line")
    })?;
    let info = program.info()?;
    Ok(Figures {
        program: name.to_owned(),
        instructions: info.size_translated().unwrap_or(0) / 8,
        machine_code: info.size_jitted(),
        steps: info.verified_instruction_count(),
        following: None,
        frames,
    })
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Does `work` while this process may open no file.
fn without_files<T>(work: impl FnOnce() -> T) -> Result<T> {
    let before = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, none)?;
    let done = work();
    setrlimit(Resource::Nofile, before)?;
    Ok(done)
}

/// The frames in the verifier's log: `stack depth 208+96`.
fn frames(log: &str) -> Option<Vec<u32>> {
    let frames = log
        .lines()
        .find_map(|line| line.strip_prefix("stack depth "))?;
    frames
        .trim()
        .split('+')
        .map(|bytes| bytes.parse().ok())
        .collect()
}

fn table(figures: &[Figures]) -> String {
    let mut text = format!(
        "    {:<16} {:>12} {:>14} {:>9} {:>9} {:>13}  {}\n",
        "program",
        "instructions",
        "machine code",
        "steps",
        "at most",
        "after another",
        "stack of each function"
    );
    for one in figures {
        let most = bound_of(&one.program).map(|bound| bound.steps);
        let frames: Vec<String> = one.frames.iter().map(u32::to_string).collect();
        text += &format!(
            "    {:<16} {:>12} {:>12} B {:>9} {:>9} {:>13}  {}\n",
            one.program,
            one.instructions,
            one.machine_code,
            shown(one.steps),
            shown(most),
            shown(one.following),
            frames.join(" ")
        );
    }
    text
}

fn shown(figure: Option<u32>) -> String {
    figure.map_or_else(|| "?".to_owned(), |figure| figure.to_string())
}

fn bound_of(program: &str) -> Option<&'static Bound> {
    BOUNDS.iter().find(|bound| bound.program == program)
}

/// All that exceeds its bound, at once.
fn judge(figures: &[Figures]) -> Result<()> {
    let mut faults = Vec::new();
    for one in figures {
        let program = &one.program;
        let Some(bound) = bound_of(program) else {
            faults.push(format!(
                "expected a line for {program} in BOUNDS of xtask/src/verifier.rs, found none"
            ));
            continue;
        };
        let frame = one.frames.iter().max().copied();
        for (what, found, most) in [
            ("steps of the verifier", one.steps, bound.steps),
            (
                "steps of the verifier after another one",
                one.following,
                MOST_FOLLOWING,
            ),
            ("bytes of stack in a function", frame, bound.frame),
        ] {
            if let Some(found) = found.filter(|found| *found > most) {
                faults.push(format!(
                    "{program}: expected at most {most} {what}, found {found}"
                ));
            }
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{}", faults.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_from_the_log() {
        let log =
            "verification time 44 usec\nstack depth 208+96\nprocessed 7 insns (limit 1000000)";
        assert_eq!(frames(log), Some(vec![208, 96]));
        assert_eq!(frames("stack depth 0\n"), Some(vec![0]));
        assert_eq!(frames("processed 7 insns"), None);
    }

    #[test]
    fn what_exceeds_its_bound_is_named() {
        let figures = |program: &str, steps, frames: &[u32]| Figures {
            program: program.to_owned(),
            instructions: 1,
            machine_code: 1,
            steps: Some(steps),
            following: Some(steps * 2),
            frames: frames.to_vec(),
        };
        assert!(judge(&[figures("lb_xdp", 200_000, &[288, 288])]).is_ok());
        let faults = [
            figures("lb_xdp", 200_001, &[0, 289]),
            figures("lb_new", 1, &[]),
        ];
        let said = judge(&faults).map_err(|error| error.to_string());
        let said = said.err().unwrap_or_default();
        for fault in [
            "lb_xdp: expected at most 200000 steps of the verifier, found 200001",
            "lb_xdp: expected at most 400000 steps of the verifier after another one, found 400002",
            "lb_xdp: expected at most 288 bytes of stack in a function, found 289",
            "a line for lb_new in BOUNDS",
        ] {
            assert!(said.contains(fault), "{said}");
        }
    }
}
