//! `/config`: the settings in force, each with the place that it comes from.

use axum::extract::State;

use super::{
    answer::Answer,
    document::tag,
    state::ApiState,
    types::{Config, Envelope},
};

/// Every setting in force, and where it comes from
///
/// File and line, variable, flag, default, or `run time` with what is `configured` instead; what a
/// reload found and a restart has to bring stands in `waiting`. Secrets are never shown.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/config",
    tag = tag::CONFIGURATION,
    operation_id = "getConfig",
    responses((status = OK, body = Envelope<Config>, description = "The settings"))
)]
pub(super) async fn config(State(state): State<ApiState>) -> Answer<Config> {
    let snapshot = state.snapshot();
    let mut settings = state.settings();
    let mut at_run_time = |path: &str, in_force: &str| {
        let found = settings.iter_mut().find(|setting| setting.path == path);
        let in_force = format!("{in_force:?}");
        if let Some(setting) = found
            && setting.value != in_force
        {
            setting.configured = Some(std::mem::replace(&mut setting.value, in_force));
            setting.origin = "run time".to_owned();
        }
    };
    // The settings of the configuration that can be others at run time.
    for service in &snapshot.services {
        let path = format!("services.{}.algorithm", service.name());
        at_run_time(&path, service.spec.algorithm.as_str());
    }
    at_run_time("log.level", &state.log().in_force().level);
    Answer::ok(Config {
        revision: snapshot.revision,
        settings,
    })
}
