//! `lb vips …`.

use std::net::IpAddr;

use hyper::Method;
use serde_json::json;

use super::{
    Context,
    args::VipsCommand,
    change,
    client::segment,
    error::CliError,
    format::{Lean, table},
};
use crate::api::types::Vips;

/// Protocol, address and ports of a VIP. What ports there may be the API says.
fn parts(vip: &str) -> Option<(&str, IpAddr, &str)> {
    let (protocol, rest) = vip.split_once('/')?;
    let (address, ports) = rest.rsplit_once(':')?;
    let address = match address.strip_prefix('[') {
        Some(v6) => IpAddr::V6(v6.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(address.parse().ok()?),
    };
    Some((protocol, address, ports))
}

pub(super) async fn run(
    context: &mut Context<'_>,
    command: Option<VipsCommand>,
) -> Result<(), CliError> {
    let path = |vip: &str| format!("/vips/{}", segment(vip));
    match command {
        None | Some(VipsCommand::List) => list(context).await,
        Some(VipsCommand::Show { vip }) => change::part(context, &path(&vip)).await,
        Some(VipsCommand::Add {
            vip,
            service,
            trial,
        }) => {
            let Some((protocol, address, ports)) = parts(&vip) else {
                return Err(CliError::Setting {
                    expected: "a VIP such as tcp/10.0.0.100:443, tcp/[2001:db8::1]:8000-8999 or \
                               udp/10.0.0.100:any",
                    found: vip,
                });
            };
            let body = json!({
                "protocol": protocol,
                "address": address.to_string(),
                "port": change::value(ports),
                "service": service,
            });
            change::make(context, Method::POST, "/vips", Some(body), trial).await
        }
        Some(VipsCommand::Set {
            vip,
            settings,
            trial,
        }) => change::set(context, &path(&vip), &settings, trial).await,
        Some(VipsCommand::Remove { vip, trial }) => {
            change::remove(context, &path(&vip), trial).await
        }
    }
}

async fn list(context: &mut Context<'_>) -> Result<(), CliError> {
    let vips: Vips = context.client.get("/vips").await?;
    context.show(&vips, |list| {
        let columns = [
            ("VIP", Lean::Left),
            ("SERVICE", Lean::Left),
            ("FORWARDING", Lean::Left),
        ];
        let rows = list
            .vips
            .iter()
            .map(|vip| vec![vip.vip.clone(), vip.service.clone(), vip.forwarding.clone()]);
        table(&columns, rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vips_are_taken_apart_at_their_last_colon() {
        let v4 = IpAddr::from([10, 0, 0, 1]);
        let v6 = "2001:db8::1".parse().unwrap();
        for (text, found) in [
            ("tcp/10.0.0.1:443", Some(("tcp", v4, "443"))),
            ("udp/10.0.0.1:any", Some(("udp", v4, "any"))),
            ("tcp/[2001:db8::1]:80-89", Some(("tcp", v6, "80-89"))),
            ("tcp/2001:db8::1:80", None),
            ("tcp/[10.0.0.1]:80", None),
            ("10.0.0.1:80", None),
            ("tcp/10.0.0.1", None),
            ("tcp/host:80", None),
        ] {
            assert_eq!(parts(text), found, "{text}");
        }
    }
}
