//! `lb sessions …`.

use super::{
    Context,
    args::SessionsCommand,
    client::segment,
    error::CliError,
    format::{Lean, percent, table},
};
use crate::api::types::{Forgotten, ServiceSessions, Session, SessionPin, Sessions};

pub(super) async fn run(
    context: &mut Context<'_>,
    command: SessionsCommand,
) -> Result<(), CliError> {
    match command {
        SessionsCommand::List {
            service,
            instance,
            after,
            limit,
        } => {
            let mut path = format!("/sessions?limit={limit}");
            for (name, value) in [
                ("service", service),
                ("instance", instance),
                ("after", after),
            ] {
                if let Some(value) = value {
                    path += &format!("&{name}={}", segment(&value));
                }
            }
            let list: Sessions = context.client.get(&path).await?;
            context.show(&list, list_text)
        }
        SessionsCommand::Show { session } => {
            let path = format!("/sessions/{}", segment(&session));
            let session: Session = context.client.get(&path).await?;
            context.show(&session, |session| pins(std::slice::from_ref(session)))
        }
        SessionsCommand::Delete { session } => {
            let path = format!("/sessions/{}", segment(&session));
            let gone: Forgotten = context.client.delete(&path).await?;
            context.show(&gone, |gone| {
                format!("forgotten: {}", entries(gone.entries))
            })
        }
        SessionsCommand::Clear => {
            let gone: Forgotten = context.client.delete("/sessions").await?;
            context.show(&gone, |gone| {
                let entries = entries(gone.entries);
                format!("forgotten: {entries}, and every cookie of lb's own")
            })
        }
    }
}

fn entries(count: u64) -> String {
    match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    }
}

fn list_text(list: &Sessions) -> String {
    let store = &list.store;
    let mut text = format!(
        "{} of at most {} in {:.1} MB; {} expired, {} evicted\n",
        entries(store.entries),
        store.capacity,
        store.memory_bytes as f64 / 1e6,
        store.expired,
        store.evicted,
    );
    if !list.services.is_empty() {
        text += &format!("\n{}\n", services(&list.services));
    }
    if !list.sessions.is_empty() {
        text += &format!("\n{}\n", pins(&list.sessions));
    }
    if let Some(next) = &list.next {
        text += &format!("\nmore: lb sessions list --after {next}\n");
    }
    text
}

fn services(services: &[ServiceSessions]) -> String {
    let columns = [
        ("SERVICE", Lean::Left),
        ("TTL", Lean::Right),
        ("HITS", Lean::Right),
        ("MISSES", Lean::Right),
        ("HASHED", Lean::Right),
        ("BROKEN", Lean::Right),
        ("WITHOUT", Lean::Right),
        ("HIT RATE", Lean::Right),
        ("BREAKS", Lean::Left),
    ];
    let row = |service: &ServiceSessions| {
        let count = |name: &str| service.requests.get(name).copied().unwrap_or(0).to_string();
        let breaks = service.breaks.iter().filter(|(_, count)| **count > 0);
        let breaks: Vec<String> = breaks
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        vec![
            service.service.clone(),
            format!("{} s", service.ttl_seconds),
            count("hit"),
            count("miss"),
            count("hashed"),
            count("broken"),
            count("none"),
            service.hit_rate.map_or_else(|| "-".to_owned(), percent),
            breaks.join(", "),
        ]
    };
    table(&columns, services.iter().map(row))
}

fn pins(sessions: &[Session]) -> String {
    let columns = [
        ("SESSION", Lean::Left),
        ("SERVICE", Lean::Left),
        ("INSTANCE", Lean::Left),
        ("AGE", Lean::Right),
        ("EXPIRES IN", Lean::Right),
    ];
    let row = |session: &Session, pin: &SessionPin| {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "(gone)".to_owned());
        vec![
            session.session.clone(),
            name(&pin.service),
            name(&pin.instance),
            format!("{:.0} s", pin.age_seconds),
            format!("{:.0} s", pin.expires_in_seconds),
        ]
    };
    let rows = sessions
        .iter()
        .flat_map(|session| session.pins.iter().map(move |pin| row(session, pin)));
    table(&columns, rows)
}
