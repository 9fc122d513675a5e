//! `lb routes …`.

use hyper::Method;

use super::{
    Context,
    args::RoutesCommand,
    change,
    client::segment,
    error::CliError,
    format::{Lean, table},
};
use crate::api::types::Routes;

pub(super) async fn run(
    context: &mut Context<'_>,
    command: Option<RoutesCommand>,
) -> Result<(), CliError> {
    let path = |route: &str| format!("/routes/{}", segment(route));
    match command {
        None | Some(RoutesCommand::List) => list(context).await,
        Some(RoutesCommand::Show { route }) => change::part(context, &path(&route)).await,
        Some(RoutesCommand::Add {
            path,
            service,
            host,
            destination,
            settings,
            trial,
        }) => {
            let mut body = change::settings(&settings)?;
            body["path"] = path.into();
            body["service"] = service.into();
            let matched = [("destination", destination), ("host", host)];
            for (key, value) in matched {
                if let Some(value) = value {
                    body[key] = value.into();
                }
            }
            change::make(context, Method::POST, "/routes", Some(body), trial).await
        }
        Some(RoutesCommand::Set {
            route,
            settings,
            trial,
        }) => change::set(context, &path(&route), &settings, trial).await,
        Some(RoutesCommand::Remove { route, trial }) => {
            change::remove(context, &path(&route), trial).await
        }
    }
}

async fn list(context: &mut Context<'_>) -> Result<(), CliError> {
    let routes: Routes = context.client.get("/routes").await?;
    context.show(&routes, |list| {
        let columns = [
            ("DESTINATION", Lean::Left),
            ("HOST", Lean::Left),
            ("PATH", Lean::Left),
            ("SERVICE", Lean::Left),
        ];
        let rows = list.routes.iter().map(|route| {
            vec![
                route.destination.clone().unwrap_or_else(|| "*".to_owned()),
                route.host.clone(),
                route.path.clone(),
                route.service.clone(),
            ]
        });
        table(&columns, rows)
    })
}
