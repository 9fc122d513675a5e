//! Finds the objects for the kernel, if they are there, for the daemon to embed.
//!
//! `cargo xtask build` puts them at `<target>/bpf/lb-xdp` and `lb-tc`; `LB_BPF_OBJECT` names another place
//! of the first, beside which the second is looked for. When found they are copied to `OUT_DIR` and the cfg
//! `bpf_object` is set. When not, nothing is embedded and the daemon says so when an L4 service is asked for: a
//! plain `cargo build`, clippy and editors work on machines that cannot compile for the kernel.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LB_BPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let Some(xdp) = object(&out)? else {
        return Ok(());
    };
    let objects = [
        ("lb-xdp", xdp.clone()),
        ("lb-tc", xdp.with_file_name("lb-tc")),
    ];
    if objects.iter().all(|(_, object)| object.is_file()) {
        for (name, object) in objects {
            println!("cargo::rerun-if-changed={}", object.display());
            fs::copy(&object, out.join(name))?;
        }
        println!("cargo::rustc-cfg=bpf_object");
    }
    Ok(())
}

/// Where the object of XDP is or would be.
fn object(out: &Path) -> io::Result<Option<PathBuf>> {
    if let Some(object) = env::var_os("LB_BPF_OBJECT") {
        return Ok(Some(PathBuf::from(object)));
    }
    // Cargo marks the target folder, however deep a profile or a target triple puts OUT_DIR in it.
    let Some(target) = out
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
    else {
        return Ok(None);
    };
    // Cargo takes a watched path that does not exist as changed, and would build the daemon anew
    // each time. So the folder is made, and watched for the objects to appear in it.
    let folder = target.join("bpf");
    fs::create_dir_all(&folder)?;
    println!("cargo::rerun-if-changed={}", folder.display());
    Ok(Some(folder.join("lb-xdp")))
}
