//! `/algorithms`: what there is, what each service uses, and another one for it.

use axum::extract::{Path, State};

use super::{
    answer::Answer,
    body::{Nothing, Strict},
    error::{ApiError, Fault},
    instances::{self, find_service},
    measure,
    query::Parameters,
    state::ApiState,
    types::{
        AlgorithmInfo, Algorithms, InstanceWeight, Keys, ServiceAlgorithm, ServiceAlgorithmDetail,
        SetAlgorithm,
    },
};
use crate::{
    balance::{self, Moves},
    model::{Algorithm, Member, Timestamp},
    registry::{Change, InstanceStatus, Service},
};

/// `GET /algorithms`.
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

/// `GET /algorithms/{service}`.
pub(super) async fn one(
    State(state): State<ApiState>,
    Path(service): Path<String>,
) -> Result<Answer<ServiceAlgorithmDetail>, ApiError> {
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, &service)?;
    Ok(Answer::ok(detail(service, None, state.now())))
}

/// `PUT /algorithms/{service}`.
pub(super) async fn set(
    State(state): State<ApiState>,
    Path(service): Path<String>,
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
    state.registry().apply(Change::Algorithm {
        service: before.name().clone(),
        algorithm,
    })?;
    let snapshot = state.snapshot();
    let after = find_service(&snapshot, &service)?;
    let previous = Some(before.spec.algorithm);
    Ok(Answer::ok(detail(after, previous, state.now())))
}

fn names() -> [&'static str; Algorithm::ALL.len()] {
    Algorithm::ALL.map(Algorithm::as_str)
}

/// `POST /algorithms/{service}/reset`.
pub(super) async fn reset(
    State(state): State<ApiState>,
    Path(service): Path<String>,
    _: Nothing,
) -> Result<Answer<ServiceAlgorithmDetail>, ApiError> {
    let snapshot = state.snapshot();
    let name = find_service(&snapshot, &service)?.name().clone();
    state.registry().apply(Change::Forget(name))?;
    let snapshot = state.snapshot();
    let service = find_service(&snapshot, &service)?;
    Ok(Answer::ok(detail(service, None, state.now())))
}

/// `GET /algorithms/{service}/keys`: what taking instances out would do to consistent hashing.
pub(super) async fn keys(
    State(state): State<ApiState>,
    Path(service): Path<String>,
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
