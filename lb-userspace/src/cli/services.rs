//! `lb services …`.

use hyper::Method;

use super::{
    Context,
    args::ServicesCommand,
    change,
    client::segment,
    error::CliError,
    format::{Lean, table},
    status::of,
};
use crate::api::types::Services;

pub(super) async fn run(
    context: &mut Context<'_>,
    command: Option<ServicesCommand>,
) -> Result<(), CliError> {
    let path = |service: &str| format!("/services/{}", segment(service));
    match command {
        None | Some(ServicesCommand::List) => list(context).await,
        Some(ServicesCommand::Show { service }) => change::part(context, &path(&service)).await,
        Some(ServicesCommand::Create {
            service,
            instances,
            algorithm,
            settings,
            trial,
        }) => {
            let mut body = change::settings(&settings)?;
            body["name"] = service.into();
            if !instances.is_empty() || body.get("instances").is_none() {
                body["instances"] = instances.into();
            }
            if let Some(algorithm) = algorithm {
                body["algorithm"] = algorithm.into();
            }
            change::make(context, Method::POST, "/services", Some(body), trial).await
        }
        Some(ServicesCommand::Set {
            service,
            settings,
            trial,
        }) => change::set(context, &path(&service), &settings, trial).await,
        Some(ServicesCommand::Remove { service, trial }) => {
            change::remove(context, &path(&service), trial).await
        }
    }
}

async fn list(context: &mut Context<'_>) -> Result<(), CliError> {
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
