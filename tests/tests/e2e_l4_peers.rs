//! Clients and instances that nobody here has written, through VIPs: curl and nginx.

use anyhow::{Result, ensure};
use lb_tests::client::curl::curl;
use lb_tests::nginx::Nginx;
use lb_tests::scene::{Configuration, DSR, FAMILIES, NAT, Scene, address};
use lb_tests::topology::Family;

/// Port of nginx and of the VIPs: with l2dsr they cannot differ.
const PORT: u16 = 80;

#[test]
#[ignore = "needs root"]
fn curl_gets_files_of_nginx_through_vips() -> Result<()> {
    let mut configuration = Configuration::new("[]").packets();
    for (name, number) in [("nat", NAT), ("l2dsr", DSR)] {
        let settings = format!("forwarding = \"{name}\"\nalgorithm = \"round_robin\"");
        configuration = configuration
            .service(name, PORT, &[1, 1], &settings)
            .vips(number, PORT, "tcp", name);
    }
    let scene = Scene::new(2, configuration.text())?;
    let large: Vec<u8> = (0..12_u32 << 20)
        .map(|at| (at ^ (at >> 11)).to_le_bytes()[0])
        .collect();
    let files: [(&str, &[u8]); 2] = [("large", &large), ("small", b"0123456789")];
    let mut running = Vec::new();
    for host in &scene.topology.instances {
        running.push(Nginx::start(host, PORT, &files)?);
    }
    let client = &scene.topology.client.namespace;
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_string_lossy().into_owned();
    for number in [NAT, DSR] {
        for family in FAMILIES {
            let vip = match family {
                Family::V4 => address(number, family).to_string(),
                Family::V6 => format!("[{}]", address(number, family)),
            };
            let got = curl(client, &["--output", &path, &format!("http://{vip}/large")])?;
            ensure!(got.status == 200, "{got:?}");
            ensure!(
                std::fs::read(&path)? == large,
                "{vip}: the file came broken"
            );
            // Each run of curl is a connection.
            let mut seen = [0, 0];
            for _ in 0..8 {
                let url = format!("http://{vip}/small");
                let small = curl(client, &["--include", &url])?;
                ensure!(
                    small.status == 200 && small.body.ends_with("0123456789"),
                    "{small:?}"
                );
                for (count, name) in seen.iter_mut().zip(["i1", "i2"]) {
                    *count += u32::from(small.body.contains(&format!("x-instance: {name}")));
                }
            }
            // Turns are taken per CPU.
            ensure!(
                seen[0] + seen[1] == 8 && seen.iter().all(|count| *count >= 3),
                "{seen:?}"
            );
        }
    }
    Ok(())
}
