//! Sessions and their instances.

use std::{collections::BTreeSet, sync::Mutex};

use super::*;
use crate::{
    affinity::{Keyring, Sealed, SessionId, store::scope},
    l7::affinity::token::tests::hs256,
    model::{
        AdminState, Break, Followed, HashKey, Health, HealthCheckSpec, JwtAlgorithm, JwtKey,
        RecoverySpec, Refused, Secret, SessionSource,
    },
    registry::RecoveryStep,
    resilience::{Progress, WHOLE},
};

const SECRET: &[u8] = b"a-secret-of-at-least-32-characters";
const KEYS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

/// Three instances that say who they are, behind a service with affinity.
struct Scene {
    gateway: Gateway,
    stubs: Vec<Stub>,
    /// The instance that drops connections instead of answering.
    dead: Arc<AtomicU16>,
    /// `Cookie` fields that instances were sent.
    cookies: Arc<Mutex<BTreeSet<String>>>,
}

impl Scene {
    fn new(change: impl FnOnce(&mut ServiceSpec)) -> Self {
        Self::of(|desired| change(&mut desired.services[0]))
    }

    fn of(change: impl FnOnce(&mut Desired)) -> Self {
        let dead = Arc::new(AtomicU16::new(u16::MAX));
        let cookies: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let stub = |number: u16| {
            let (dead, cookies) = (Arc::clone(&dead), Arc::clone(&cookies));
            Stub::new(move |mut peer| {
                while let Some(request) = peer.request() {
                    if dead.load(Ordering::Relaxed) == number {
                        break;
                    }
                    let cookie = request.field("cookie").map(str::to_owned);
                    cookies.lock().unwrap().extend(cookie);
                    let extra = match request.field("x-public") {
                        Some(_) => "Cache-Control: public\r\n",
                        None => "",
                    };
                    let answer =
                        format!("HTTP/1.1 200 OK\r\n{extra}Content-Length: 1\r\n\r\n{number}");
                    if peer.try_send(answer).is_err() {
                        break;
                    }
                }
            })
        };
        let stubs: Vec<Stub> = (0..3).map(stub).collect();
        let addresses: Vec<SocketAddr> = stubs.iter().map(|stub| stub.address).collect();
        let mut desired = everything_to(&addresses);
        desired.services[0].affinity.enabled = true;
        let keys = KEYS.map(|key| Secret(key.to_vec()));
        desired.gateway.sessions.cookie_keys = keys.to_vec();
        change(&mut desired);
        Self {
            gateway: Gateway::of(desired),
            stubs,
            dead,
            cookies,
        }
    }

    /// A request with these fields.
    fn ask(&self, fields: &str) -> Message {
        let mut client = self.gateway.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        client.answer()
    }

    /// The number of the instance that answers a request with these fields.
    fn instance(&self, fields: &str) -> usize {
        let answer = self.ask(fields);
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.text().parse().unwrap()
    }

    fn followed(&self, followed: Followed) -> u64 {
        self.gateway.registry.snapshot().services[0]
            .affinity
            .followed(followed)
    }

    fn breaks(&self, reason: Break) -> u64 {
        self.gateway.registry.snapshot().services[0]
            .affinity
            .breaks(reason)
    }

    fn refused(&self, claim: Refused) -> u64 {
        self.gateway.registry.snapshot().services[0]
            .affinity
            .refused(claim)
    }

    fn entries(&self) -> usize {
        self.gateway.registry.sessions().len()
    }

    fn set(&self, at: usize, state: AdminState) {
        let change = Change::Admin {
            service: ServiceName::new("web").unwrap(),
            instance: self.stubs[at].address.to_string(),
            state,
        };
        self.gateway.registry.apply(change).unwrap();
    }
}

/// The `name=value` of the cookie that an answer sets.
fn cookie(answer: &Message) -> Option<String> {
    let set = answer.field("set-cookie")?;
    Some(set.split(';').next().unwrap().to_owned())
}

fn sealed(cookie: &str, service: &str) -> Option<Sealed> {
    let ring = Keyring::new(KEYS.iter().map(<[u8; 32]>::as_slice)).unwrap();
    ring.open(cookie.split_once('=')?.1.as_bytes(), service)
}

#[test]
fn clients_are_sessions_by_the_address_that_trusted_proxies_tell() {
    let scene = Scene::of(|desired| {
        desired.services[0].affinity.sources = vec![SessionSource::Address];
        desired.gateway.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let mut instances = BTreeSet::new();
    for client in 1..=12 {
        let fields = format!("X-Forwarded-For: 203.0.113.{client}\r\n");
        let instance = scene.instance(&fields);
        for _ in 0..3 {
            assert_eq!(scene.instance(&fields), instance, "{client}");
        }
        instances.insert(instance);
    }
    assert_eq!((scene.entries(), instances.len()), (12, 3));
    let store = scene.gateway.registry.sessions();
    let session = SessionId::named("203.0.113.7");
    assert_eq!(store.find(session, crate::model::Timestamp(0)).len(), 1);
}

#[test]
fn a_session_of_any_source_stays_with_its_instance() {
    let scene = Scene::new(|web| {
        let cookie = SessionSource::Cookie("sid".to_owned());
        web.affinity.sources.insert(3, cookie);
    });
    let token = hs256("{}", SECRET);
    for (number, fields) in [
        "X-Session-ID: a\r\nSession-ID: c\r\n".to_owned(),
        "Session-ID: b\r\n".to_owned(),
        format!("Authorization: Bearer {token}\r\n"),
        "Cookie: x=1; sid=q\r\n".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let instance = scene.instance(fields);
        for _ in 0..6 {
            assert_eq!(scene.instance(fields), instance, "{fields}");
        }
        assert_eq!(scene.entries(), number + 1);
    }
    // Whose id is the same is the same session, wherever the id stands.
    let first = scene.instance("X-Session-ID: a\r\n");
    assert_eq!(scene.instance("Session-ID: a\r\n"), first);
    assert_eq!(scene.followed(Followed::Miss), 4);
    assert_eq!(scene.followed(Followed::Hit), 26);
    assert!(
        scene
            .ask("X-Session-ID: a\r\n")
            .field("set-cookie")
            .is_none()
    );
    // Sessions are shared out as requests are.
    let count = |wanted| {
        let instances = (0..30).map(|n| scene.instance(&format!("X-Session-ID: {n}\r\n")));
        instances.filter(|instance| *instance == wanted).count()
    };
    assert_eq!(count(0), 10);
}

#[test]
fn a_session_leaves_an_instance_that_fails_within_the_request() {
    let scene = Scene::new(|_| {});
    let first = scene.instance("X-Session-ID: a\r\n");
    scene.dead.store(first as u16, Ordering::Relaxed);
    let second = scene.instance("X-Session-ID: a\r\n");
    assert_ne!(first, second);
    assert_eq!(scene.breaks(Break::Failed), 1);
    scene.dead.store(u16::MAX, Ordering::Relaxed);
    for _ in 0..6 {
        assert_eq!(scene.instance("X-Session-ID: a\r\n"), second);
    }
    assert_eq!(scene.followed(Followed::Broken), 1);

    // By cookie, too, and the cookie says so.
    let answer = scene.ask("");
    let before = cookie(&answer).unwrap();
    let first: u16 = answer.text().parse().unwrap();
    scene.dead.store(first, Ordering::Relaxed);
    let answer = scene.ask(&format!("Cookie: {before}\r\n"));
    let after = cookie(&answer).unwrap();
    assert_ne!(answer.text(), first.to_string());
    let [before, after] = [before, after].map(|cookie| sealed(&cookie, "web").unwrap());
    assert_eq!(before.session, after.session);
    assert_ne!(before.instance, after.instance);
    assert_eq!(scene.breaks(Break::Failed), 2);
}

#[test]
fn a_session_leaves_an_instance_that_is_gone_or_disabled_but_not_one_that_drains() {
    let mut scene = Scene::new(|_| {});
    let first = scene.instance("X-Session-ID: a\r\n");
    scene.set(first, AdminState::Draining);
    assert_eq!(scene.instance("X-Session-ID: a\r\n"), first);
    assert!((0..9).all(|n| scene.instance(&format!("X-Session-ID: {n}\r\n")) != first));
    scene.set(first, AdminState::Disabled);
    let second = scene.instance("X-Session-ID: a\r\n");
    assert_ne!(second, first);
    assert_eq!(scene.breaks(Break::Unavailable), 1);
    let gone = scene.stubs[second].address;
    scene.gateway.reload(|desired| {
        let instances = &mut desired.services[0].instances;
        instances.retain(|instance| instance.endpoint.address() != gone);
    });
    let third = scene.instance("X-Session-ID: a\r\n");
    assert!(third != first && third != second);
    assert_eq!(scene.breaks(Break::Gone), 1);
}

#[test]
fn a_cookie_is_set_once_believed_and_kept_from_instances() {
    let scene = Scene::new(|_| {});
    let answer = scene.ask("Cookie: theirs=1\r\n");
    let own = cookie(&answer).unwrap();
    let web = ServiceName::new("web").unwrap();
    assert!(
        own.starts_with(&format!("lb_session_{:08x}=", scope(&web))),
        "{own}"
    );
    let set = answer.field("set-cookie").unwrap();
    assert!(
        set.ends_with("; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    let fields = format!("Cookie: theirs=1; {own}; more=2\r\n");
    for _ in 0..6 {
        let again = scene.ask(&fields);
        assert_eq!(again.text(), answer.text());
        assert_eq!(again.field("set-cookie"), None);
    }
    let seen = scene.cookies.lock().unwrap().clone();
    assert_eq!(Vec::from_iter(seen), ["theirs=1", "theirs=1; more=2"]);
    assert_eq!((scene.entries(), scene.followed(Followed::Hit)), (0, 6));

    // What was touched, or is of another service, is none; a new one comes.
    let mut forged = own.clone();
    let last = if forged.pop() == Some('A') { 'Q' } else { 'A' };
    forged.push(last);
    let answer = scene.ask(&format!("Cookie: {forged}\r\n"));
    assert_eq!(scene.refused(Refused::Cookie), 1);
    assert_ne!(cookie(&answer).unwrap(), own);
    // An answer that caches may give to others gets none.
    assert_eq!(cookie(&scene.ask("X-Public: 1\r\n")), None);
    // The session of a deleted store is over, although the client still shows its cookie.
    scene.gateway.registry.apply(Change::Reset).unwrap();
    let session = |cookie: &str| sealed(cookie, "web").unwrap().session;
    let answer = scene.ask(&fields);
    assert_ne!(session(&cookie(&answer).unwrap()), session(&own));
}

#[test]
fn cookies_outlive_the_rotation_of_keys_and_one_session_has_all_services() {
    let mut scene = Scene::new(|_| {});
    scene.gateway.reload(|desired| {
        let mut api = desired.services[0].clone();
        api.name = ServiceName::new("api").unwrap();
        desired.services.push(api);
        desired.routes.push(RouteSpec::new(
            PathPattern::Prefix("/api".to_owned()),
            ServiceName::new("api").unwrap(),
        ));
    });
    let answer = scene.ask("");
    let own = cookie(&answer).unwrap();
    scene
        .gateway
        .reload(|desired| desired.gateway.sessions.cookie_keys.reverse());
    let again = scene.ask(&format!("Cookie: {own}\r\n"));
    assert_eq!(again.text(), answer.text());
    assert_eq!(cookie(&again), None);
    let mut client = scene.gateway.connect();
    client.send(format!(
        "GET /api HTTP/1.1\r\nHost: a\r\nCookie: {own}\r\n\r\n"
    ));
    let other = cookie(&client.answer()).unwrap();
    assert_ne!(own.split('=').next(), other.split('=').next());
    let session = sealed(&own, "web").unwrap().session;
    assert_eq!(sealed(&other, "api").unwrap().session, session);
    scene
        .gateway
        .reload(|desired| desired.gateway.sessions.cookie_keys.truncate(1));
    let anew = cookie(&scene.ask(&format!("Cookie: {own}\r\n")));
    assert_ne!(sealed(&anew.unwrap(), "web").unwrap().session, session);
}

#[test]
fn a_token_counts_when_it_is_verified() {
    let scene = Scene::new(|web| {
        web.affinity.jwt_keys.push(JwtKey {
            algorithm: JwtAlgorithm::Hs256,
            key: Secret(SECRET.to_vec()),
        });
    });
    let field = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let one = scene.instance(&field(&hs256(r#"{"sid":"s","n":1}"#, SECRET)));
    for n in 2..8 {
        let token = hs256(&format!("{{\"sid\":\"s\",\"n\":{n}}}"), SECRET);
        assert_eq!(scene.instance(&field(&token)), one);
    }
    assert_eq!(scene.instance("X-Session-ID: s\r\n"), one);
    assert_eq!((scene.entries(), scene.refused(Refused::Token)), (1, 0));
    let forged = hs256(r#"{"sid":"s"}"#, b"another secret of the same length.");
    let expired = hs256(r#"{"sid":"s","exp":1000000000}"#, SECRET);
    for token in [&forged, &expired, "not.a.token"] {
        let answer = scene.ask(&field(token));
        assert_eq!(answer.status(), 200);
        // No session so far, so one of lb's own.
        assert!(cookie(&answer).is_some());
    }
    assert_eq!((scene.entries(), scene.refused(Refused::Token)), (1, 3));
}

#[test]
fn under_consistent_hash_nothing_is_remembered() {
    let scene = Scene::new(|web| web.algorithm = Algorithm::ConsistentHash);
    for n in 0..12 {
        let fields = format!("X-Session-ID: {n}\r\n");
        let instance = scene.instance(&fields);
        // However much there is to do.
        let member = scene.gateway.instance(instance);
        let clock = Clock::real();
        let busy = || member.begin(Algorithm::ConsistentHash, 0, &clock);
        let _guards: Vec<_> = (0..50).map(|_| busy()).collect();
        assert_eq!(scene.instance(&fields), instance);
    }
    assert_eq!((scene.entries(), scene.followed(Followed::Hashed)), (0, 24));
    // The same place on every lb: it follows from id and configuration alone.
    let session = SessionId::of(b"5");
    assert_eq!(session, SessionId::named("5"));
}

#[test]
fn sessions_are_hashed_without_affinity_too() {
    let scene = Scene::new(|web| {
        web.algorithm = Algorithm::ConsistentHash;
        web.hash_key = HashKey::Session;
        web.affinity.enabled = false;
    });
    let mut instances = BTreeSet::new();
    for n in 0..20 {
        let fields = [
            format!("X-Session-ID: {n}\r\n"),
            format!("Session-ID: {n}\r\n"),
        ];
        let [one, other] = fields.map(|fields| scene.instance(&fields));
        assert_eq!(one, other);
        instances.insert(one);
    }
    assert_eq!(instances.len(), 3);
    let answer = scene.ask("");
    assert_eq!((scene.entries(), cookie(&answer)), (0, None));
    // Who has none is hashed by address.
    assert_eq!(scene.ask("").text(), answer.text());
}

#[test]
fn a_service_without_affinity_pays_and_sees_nothing() {
    let scene = Scene::new(|web| web.affinity.enabled = false);
    let answer = scene.ask("X-Session-ID: a\r\nCookie: lb_session_00000000=1\r\n");
    assert_eq!((answer.status(), cookie(&answer)), (200, None));
    assert_eq!(scene.entries(), 0);
    assert!(
        Followed::ALL
            .iter()
            .all(|followed| scene.followed(*followed) == 0)
    );
}

#[test]
fn an_instance_that_recovers_gets_its_share_of_sessions_that_are_pinned_elsewhere() {
    let scene = Scene::new(|web| {
        web.health_check = Some(HealthCheckSpec::default());
        web.recovery = Some(RecoverySpec::default());
    });
    let id = scene.gateway.instance(0).id;
    let apply = |change| drop(scene.gateway.registry.apply(change).unwrap());
    let health = |health| {
        let detail = "test".into();
        apply(Change::Health { id, health, detail });
    };
    let mut clients: Vec<Peer> = (0..4).map(|_| scene.gateway.connect()).collect();
    let mut share = |requests: u32| {
        let mut own = 0;
        for n in 0..requests {
            let session = (n * 7919) % 200;
            let client = &mut clients[n as usize % 4];
            let fields = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Session-ID: {session}\r\n\r\n");
            own += u32::from(client.send(fields).answer().text() == "0");
        }
        f64::from(own) / f64::from(requests)
    };
    health(Health::Unhealthy);
    assert!(share(400) < 1e-9);
    health(Health::Healthy);
    let progress = |part: u8| Progress {
        share: WHOLE / 10 * part,
        ..Progress::default()
    };
    let mut from = Progress::default();
    for part in [1_u8, 3, 5] {
        let to = Some(progress(part));
        apply(Change::Recovery(vec![RecoveryStep { id, from, to }]));
        from = progress(part);
        let exact = f64::from(part) / (20.0 + f64::from(part));
        let got = share(1500);
        assert!(
            (got - exact).abs() <= 0.02,
            "{part}: {got} instead of {exact}"
        );
    }
    assert!(scene.breaks(Break::Recovery) >= 30);
    assert_eq!(
        scene.followed(Followed::Hit)
            + scene.followed(Followed::Miss)
            + scene.followed(Followed::Broken),
        4900
    );
}
