//! Changes of the packet path as happenings. The registry learns of none: how the program is
//! attached is no part of the state.

use tokio::sync::watch;

use crate::{
    api::ApiState,
    l4::{PathMode, Report},
    registry::Happening,
};

/// Watches the packet path and notes when it is attached in another way, or has other troubles,
/// than before; until `stop` says true (or its sender is gone).
pub async fn watch_packet_path(state: ApiState, mut stop: watch::Receiver<bool>) {
    let mut reports = state.packet_path().subscribe();
    let mut before = happening(&reports.borrow_and_update());
    loop {
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let now = happening(&reports.borrow_and_update());
        if now != before {
            state.registry().feed().publish(now.clone());
            before = now;
        }
    }
}

fn happening(report: &Report) -> Happening {
    Happening::PacketPath {
        mode: report.mode.map(PathMode::as_str),
        reason: report.reason.clone(),
        warnings: report.warnings.clone(),
        error: report.reconcile.error.clone(),
    }
}
