//! `/algorithms`: what there is, what each service uses, and another one for it.

use axum::extract::State;

use super::{
    answer::Answer,
    body::{Nothing, Strict},
    document::{NotKept, tag},
    error::{ApiError, Fault},
    instances::{self, find_service},
    measure,
    path::OfService,
    query::Parameters,
    state::ApiState,
    types::{
        AlgorithmInfo, Algorithms, Envelope, InstanceWeight, Keys, ServiceAlgorithm,
        ServiceAlgorithmDetail, SetAlgorithm,
    },
};
use crate::{
    balance::{self, Moves},
    model::{Algorithm, Member, Timestamp},
    registry::{Change, InstanceStatus, Service},
    runtime::Order,
};

/// What algorithms there are, and what each service uses
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/algorithms",
    tag = tag::ALGORITHMS,
    operation_id = "listAlgorithms",
    responses((status = OK, body = Envelope<Algorithms>, description = "The algorithms"))
)]
pub(super) async fn all(State(state): State<ApiState>) -> Answer<Algorithms> {
    let snapshot = state.snapshot();
    Answer::ok(Algorithms {
        algorithms: Algorithm::ALL
            .iter()
            .map(|algorithm| AlgorithmInfo {
                name: algorithm.as_str().to_owned(),
                description: algorithm.description().to_owned(),
            })
            .collect(),
        services: snapshot
            .services
            .iter()
            .map(|service| ServiceAlgorithm {
                service: service.name().to_string(),
                algorithm: service.spec.algorithm.to_string(),
            })
            .collect(),
    })
}

/// How a service chooses
///
/// Its algorithm, what each instance weighs by it, what was learned of the weights and what the
/// instances say of their load.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/algorithms/{service}",
    tag = tag::ALGORITHMS,
    operation_id = "getAlgorithm",
    params(OfService),
    responses((status = OK, body = Envelope<ServiceAlgorithmDetail>, description = "The algorithm in force"))
)]
pub(super) async fn one(
    State(state): State<ApiState>,
    OfService { service }: OfService,
) -> Result<Answer<ServiceAlgorithmDetail>, ApiError> {
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, &service)?;
    Ok(Answer::ok(detail(service, None, state.now())))
}

/// Set the algorithm of a service
///
/// In both data planes at once. It survives reloads that do not change the configured algorithm.
#[utoipa::path(
    put,
    path = "/api/v1/loadbalancer/algorithms/{service}",
    tag = tag::ALGORITHMS,
    operation_id = "setAlgorithm",
    params(OfService),
    request_body = SetAlgorithm,
    responses(
        (status = OK, body = Envelope<ServiceAlgorithmDetail>, description = "The algorithm that is now in force"),
        NotKept
    )
)]
pub(super) async fn set(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    Strict(wanted): Strict<SetAlgorithm>,
) -> Result<Answer<ServiceAlgorithmDetail>, ApiError> {
    let snapshot = state.snapshot();
    let before = find_service(&snapshot, &service)?;
    let algorithm: Algorithm = wanted.algorithm.parse().map_err(|_| ApiError::Body {
        expected: format!(
            "one of {} as the algorithm, found {:?}",
            names().join(", "),
            wanted.algorithm
        ),
        faults: vec![Fault {
            origin: None,
            pointer: "/algorithm".to_owned(),
            expected: format!("one of {}", names().join(", ")),
            found: wanted.algorithm.clone(),
        }],
    })?;
    let service_name = before.name().clone();
    let order = Order::Algorithm {
        service: service_name,
        algorithm,
    };
    state.ordering(order).await?;
    let snapshot = state.snapshot();
    let after = find_service(&snapshot, &service)?;
    let previous = Some(before.spec.algorithm);
    Ok(Answer::ok(detail(after, previous, state.now())))
}

fn names() -> [&'static str; Algorithm::ALL.len()] {
    Algorithm::ALL.map(Algorithm::as_str)
}

/// Forget what was learned of weights
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/algorithms/{service}/reset",
    tag = tag::ALGORITHMS,
    operation_id = "resetAlgorithm",
    params(OfService),
    responses((status = OK, body = Envelope<ServiceAlgorithmDetail>, description = "The algorithm in force"))
)]
pub(super) async fn reset(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    _: Nothing,
) -> Result<Answer<ServiceAlgorithmDetail>, ApiError> {
    let snapshot = state.snapshot();
    let name = find_service(&snapshot, &service)?.name().clone();
    state.registry().apply(Change::Forget(name))?;
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, &service)?;
    Ok(Answer::ok(detail(service, None, state.now())))
}

/// What taking instances out would do to consistent hashing
///
/// Which share of the keys would go to another instance, and which share has to.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/algorithms/{service}/keys",
    tag = tag::ALGORITHMS,
    operation_id = "getKeys",
    params(
        OfService,
        ("without" = Option<Vec<String>>, Query, description = "An instance that would take no \
            traffic; may be repeated"),
    ),
    responses((status = OK, body = Envelope<Keys>, description = "Shares of the keys"))
)]
pub(super) async fn keys(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    mut parameters: Parameters,
) -> Result<Answer<Keys>, ApiError> {
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, &service)?;
    let names = parameters.all("without");
    parameters.end("without, which may be there several times")?;
    let mut without = Vec::with_capacity(names.len());
    for name in &names {
        without.push(instances::find(service, name)?);
    }
    let keyed = |out: &[usize]| -> Vec<(u64, u32)> {
        let members = service.members.iter().enumerate();
        let weight = |at: usize, weight: u32| if out.contains(&at) { 0 } else { weight };
        members
            .map(|(at, member)| (member.instance.identity, weight(at, member.weight)))
            .collect()
    };
    // Two tables of up to 4095 instances: milliseconds, which are not the workers'.
    let Moves { moved, needed } = balance::moves(&keyed(&[]), &keyed(&without));
    let name = |at: usize| service.members[at].instance.endpoint.name().to_owned();
    Ok(Answer::ok(Keys {
        service: service.name().to_string(),
        algorithm: service.spec.algorithm.to_string(),
        without: without.into_iter().map(name).collect(),
        moved,
        needed,
    }))
}

fn weight(member: &Member, status: &InstanceStatus, now: Timestamp) -> InstanceWeight {
    let instance = &member.instance;
    InstanceWeight {
        instance: instance.endpoint.name().to_owned(),
        weight: status.weight,
        effective_weight: measure::weight(member.weight),
        factor: status.factors.measured,
        learned: measure::learned(instance, now),
        report: measure::report(instance, status, now),
    }
}

fn detail(
    service: &Service,
    previous: Option<Algorithm>,
    now: Timestamp,
) -> ServiceAlgorithmDetail {
    let members = service.members.iter().zip(service.statuses.iter());
    let algorithm = service.spec.algorithm;
    ServiceAlgorithmDetail {
        service: service.name().to_string(),
        algorithm: algorithm.to_string(),
        description: algorithm.description().to_owned(),
        hash_key: service.spec.hash_key.to_string(),
        hash_bound: service
            .spec
            .bound()
            .map(|percent| f64::from(percent) / 100.0),
        weights: members
            .map(|(member, status)| weight(member, status, now))
            .collect(),
        previous: previous.map(|algorithm| algorithm.to_string()),
        available: names().map(str::to_owned).to_vec(),
    }
}
