//! `/config`: the settings in force, each with the place that it comes from.

use axum::extract::State;

use super::{answer::Answer, state::ApiState, types::Config};

/// `GET /config`.
pub(super) async fn config(State(state): State<ApiState>) -> Answer<Config> {
    let snapshot = state.snapshot();
    let mut settings = state.settings();
    // The one setting of the configuration that can be another at run time.
    for service in &snapshot.services {
        let path = format!("services.{}.algorithm", service.name());
        let found = settings.iter_mut().find(|setting| setting.path == path);
        let in_force = format!("{:?}", service.spec.algorithm.as_str());
        if let Some(setting) = found
            && setting.value != in_force
        {
            setting.configured = Some(std::mem::replace(&mut setting.value, in_force));
            setting.origin = "run time".to_owned();
        }
    }
    Answer::ok(Config {
        revision: snapshot.revision,
        settings,
    })
}
