//! The command line against a served API: real sockets, real exit codes.

mod acl;
mod events;
mod flows;
mod grammar;
mod instances;
mod measures;
mod reference;
mod settings;
mod tls;
mod watching;

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

use super::*;
use crate::{
    api::{
        self, Reload, ReloadFailure, Reloaded,
        tests::{A, B, World},
    },
    model::{Algorithm, Health, Outcome},
};

/// An API on a socket, served beside the test.
struct Lb {
    world: World,
    address: SocketAddr,
    runtime: Runtime,
    stop: watch::Sender<bool>,
}

/// What a command did.
struct Done {
    code: u8,
    out: String,
    errors: String,
}

impl Done {
    fn ok(self) -> String {
        assert_eq!(self.code, OK, "{}{}", self.out, self.errors);
        assert_eq!(self.errors, "");
        self.out
    }

    fn failed(self, code: u8) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.errors);
        assert_eq!(self.out, "");
        self.errors
    }
}

impl Lb {
    fn new() -> Self {
        Self::serving(World::new())
    }

    fn serving(world: World) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(api::serve(listener, world.state.clone(), stopped));
        Self {
            world,
            address,
            runtime,
            stop,
        }
    }

    fn run(&self, args: &str) -> Done {
        command(&format!("lb --api http://{} {args}", self.address))
    }

    fn json(&self, args: &str) -> serde_json::Value {
        serde_json::from_str(&self.run(&format!("--json {args}")).ok()).unwrap()
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

const NO_DAEMON: Run = |_| anyhow::bail!("this test starts no daemon");

fn command(line: &str) -> Done {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = run(line.split_whitespace(), NO_DAEMON, &mut out, &mut errors);
    Done {
        code,
        out: String::from_utf8(out).unwrap(),
        errors: String::from_utf8(errors).unwrap(),
    }
}

/// The cells of the line that begins with `first`.
fn cells(table: &str, first: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.contains(first));
    let line = line.unwrap_or_else(|| panic!("{first} is not in\n{table}"));
    line.split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .map(str::to_owned)
        .collect()
}
