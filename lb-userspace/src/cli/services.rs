//! `lb services`, `lb routes`, `lb vips`.

use super::{
    Context,
    error::CliError,
    format::{Lean, table},
    status::of,
};
use crate::api::types::{Routes, Services, Vips};

/// `lb services`.
pub(super) async fn services(context: &mut Context<'_>) -> Result<(), CliError> {
    let services: Services = context.client.get("/services").await?;
    context.show(&services, |list| {
        let columns = [
            ("SERVICE", Lean::Left),
            ("ALGORITHM", Lean::Left),
            ("INSTANCES", Lean::Right),
            ("HEALTH CHECK", Lean::Left),
            ("ROUTES", Lean::Left),
            ("VIPS", Lean::Left),
        ];
        let rows = list.services.iter().map(|service| {
            let check = service.health_check.as_ref();
            vec![
                service.service.clone(),
                service.algorithm.clone(),
                of(&service.instances),
                check.map_or_else(|| "off".to_owned(), |check| check.probe.clone()),
                list_or_dash(&service.routes),
                list_or_dash(&service.vips),
            ]
        });
        table(&columns, rows)
    })
}

fn list_or_dash(list: &[String]) -> String {
    if list.is_empty() {
        "-".to_owned()
    } else {
        list.join(", ")
    }
}

/// `lb routes`.
pub(super) async fn routes(context: &mut Context<'_>) -> Result<(), CliError> {
    let routes: Routes = context.client.get("/routes").await?;
    context.show(&routes, |list| {
        let columns = [
            ("HOST", Lean::Left),
            ("PATH", Lean::Left),
            ("SERVICE", Lean::Left),
        ];
        let rows = list.routes.iter().map(|route| {
            vec![
                route.host.clone(),
                route.path.clone(),
                route.service.clone(),
            ]
        });
        table(&columns, rows)
    })
}

/// `lb vips`.
pub(super) async fn vips(context: &mut Context<'_>) -> Result<(), CliError> {
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
