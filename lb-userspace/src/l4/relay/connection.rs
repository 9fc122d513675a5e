//! A client's connection from being accepted to its end.

use tokio::net::TcpStream;

use super::{
    choose::{self, Ends},
    pipe,
    worker::{Room, Worker},
};
use crate::model::RelayRefusal;

/// Passes a client's connection on to an instance, until it ends.
pub(super) async fn serve(worker: &Worker, client: TcpStream, ends: Ends) {
    let Some(mut front) = worker.shared.fronts.load().at(ends.vip).cloned() else {
        // The VIP has gone between the client's word and now.
        return pipe::reset(client);
    };
    if worker
        .shared
        .registry
        .snapshot()
        .acl
        .denies(ends.client.ip())
    {
        front.counts.refuse(RelayRefusal::SourceDenied);
        return pipe::reset(client);
    }
    let Some(_room) = Room::take(&worker.shared) else {
        front.counts.refuse(RelayRefusal::MaxConnections);
        return pipe::reset(client);
    };
    let (instance, held) = match choose::connect(worker, &mut front, ends).await {
        Ok(connected) => connected,
        Err(why) => {
            front.counts.refuse(why);
            return pipe::reset(client);
        }
    };
    let now = worker.shared.clock.now();
    let open = worker.lines.enter(&front, held.instance(), now);
    // What has changed while the instance was being connected to has found nothing to cut.
    if !worker.keeps(&open.line) {
        pipe::reset(instance);
        return pipe::reset(client);
    }
    let ended = tokio::select! {
        joined = pipe::join(&client, &instance, &open.line) => joined.is_ok(),
        () = open.line.is_cut() => false,
    };
    // Closed before what is held is given back.
    if ended {
        drop((instance, client));
    } else {
        pipe::reset(instance);
        pipe::reset(client);
    }
}
