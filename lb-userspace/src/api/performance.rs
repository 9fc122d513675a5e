//! `/performance`: how fast and how well requests were answered in a window of time.

use std::time::Duration;

use axum::extract::State;

use super::{
    answer::Answer,
    document::{NotFound, tag},
    error::ApiError,
    instances::find_service,
    measure::{round, share},
    query::{Parameters, unexpected},
    state::ApiState,
    types::{Envelope, Figures, InstancePerformance, Performance, ServicePerformance},
};
use crate::{
    model::{
        Timestamp,
        history::{Distribution, LONGEST_WINDOW, Span},
    },
    registry::Service,
};

/// The window when none is asked for.
const USUAL: Duration = Duration::from_secs(60);

/// Rates, errors and latencies of a window of time
///
/// Of the requests of the last `window`: all together, each service, and each of its instances.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/performance",
    tag = tag::STATS,
    operation_id = "getPerformance",
    params(
        ("window" = Option<String>, Query, description = "From `1s` to `1h` in whole seconds; `1m` \
            when nothing is said", example = "5m"),
        ("service" = Option<String>, Query, description = "Only this service",
            example = "main-backend"),
    ),
    responses(
        (status = OK, body = Envelope<Performance>, description = "The figures"),
        NotFound
    )
)]
pub(super) async fn performance(
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Answer<Performance>, ApiError> {
    let Asked { window, service } = Asked::read(parameters)?;
    let (snapshot, now) = (state.snapshot(), state.now());
    let span = Span::new(now, window.as_secs());
    let mut total = Distribution::default();
    let services = match service {
        Some(name) => vec![of_service(
            find_service(&snapshot, &name)?,
            span,
            now,
            &mut total,
        )],
        None => {
            let services = snapshot.services.iter();
            services
                .map(|service| of_service(service, span, now, &mut total))
                .collect()
        }
    };
    Ok(Answer::ok(Performance {
        window: humantime::format_duration(window)
            .to_string()
            .replace(' ', ""),
        covered_seconds: round(span.duration(now).as_secs_f64()),
        total: figures(&total, span, now),
        services,
    }))
}

/// What the query asks for.
struct Asked {
    window: Duration,
    service: Option<String>,
}

impl Asked {
    fn read(mut parameters: Parameters) -> Result<Self, ApiError> {
        let window = parameters.one("window")?;
        let service = parameters.one("service")?;
        parameters.end("window and service")?;
        Ok(Self {
            window: window.map_or(Ok(USUAL), |text| parse_window(&text))?,
            service,
        })
    }
}

fn parse_window(text: &str) -> Result<Duration, ApiError> {
    let longest = Duration::from_secs(LONGEST_WINDOW);
    humantime::parse_duration(text)
        .ok()
        .filter(|window| (Duration::from_secs(1)..=longest).contains(window))
        .filter(|window| window.subsec_nanos() == 0)
        .ok_or_else(|| {
            let expected = "a duration from 1s to 1h in whole seconds, such as 30s, 5m or 1h";
            unexpected("window", expected, text)
        })
}

/// A service's figures; what they are made of is added to `total`.
fn of_service(
    service: &Service,
    span: Span,
    now: Timestamp,
    total: &mut Distribution,
) -> ServicePerformance {
    let mut sum = Distribution::default();
    let instances = service
        .members
        .iter()
        .map(|member| {
            let of_instance = member.instance.history(span);
            sum += &of_instance;
            InstancePerformance {
                instance: member.instance.endpoint.name().to_owned(),
                figures: figures(&of_instance, span, now),
            }
        })
        .collect();
    *total += &sum;
    ServicePerformance {
        service: service.name().to_string(),
        algorithm: service.spec.algorithm.to_string(),
        figures: figures(&sum, span, now),
        instances,
    }
}

fn figures(of: &Distribution, span: Span, now: Timestamp) -> Figures {
    let requests = of.requests();
    let seconds = span.duration(now).as_secs_f64();
    let ms = |us: f64| round(us / 1e3);
    Figures {
        requests,
        failures: of.failures,
        request_rate: round(requests as f64 / seconds),
        throughput: round(requests.saturating_sub(of.failures) as f64 / seconds),
        error_rate: share(of.failures, requests),
        mean_ms: of.mean_us().map(ms),
        p50_ms: of.quantile_us(0.50).map(ms),
        p95_ms: of.quantile_us(0.95).map(ms),
        p99_ms: of.quantile_us(0.99).map(ms),
        max_ms: (requests > 0).then(|| ms(of.max_us as f64)),
    }
}
