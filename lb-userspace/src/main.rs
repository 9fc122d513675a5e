//! The `lb` program.

use lb_userspace::{app, cli};

/// Requests allocate small and often, from one thread each: what mimalloc is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main(app::run)
}
