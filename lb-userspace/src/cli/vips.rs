//! `lb vips …`.

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
            let parts = vip.split_once('/').and_then(|(protocol, address)| {
                let address: std::net::SocketAddr = address.parse().ok()?;
                Some((protocol, address))
            });
            let Some((protocol, address)) = parts else {
                return Err(CliError::Setting {
                    expected: "a VIP such as tcp/10.0.0.100:443",
                    found: vip,
                });
            };
            let body = json!({
                "protocol": protocol,
                "address": address.ip().to_string(),
                "port": address.port(),
                "service": service,
            });
            change::make(context, Method::POST, "/vips", Some(body), trial).await
        }
        Some(VipsCommand::Set {
            vip,
            settings,
            trial,
        }) => {
            let body = change::settings(&settings)?;
            change::make(context, Method::PATCH, &path(&vip), Some(body), trial).await
        }
        Some(VipsCommand::Remove { vip, trial }) => {
            change::make(context, Method::DELETE, &path(&vip), None, trial).await
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
