//! Where the API listens, and whom it lets in.

use ring::digest::{SHA256, digest};

use super::*;
use crate::model::{ApiAddress, Role};

#[test]
fn a_port_alone_means_every_ipv4_address_but_loopback_for_the_api() {
    for (listen, gateway, api) in [
        ("81", "0.0.0.0:81", "127.0.0.1:81"),
        (":81", "0.0.0.0:81", "127.0.0.1:81"),
        ("localhost:81", "127.0.0.1:81", "127.0.0.1:81"),
        ("0.0.0.0:81", "0.0.0.0:81", "0.0.0.0:81"),
        ("[::]:81", "[::]:81", "[::]:81"),
    ] {
        let config = load_text(&format!("[gateway]\nlisten = \"{listen}\"")).unwrap();
        assert_eq!(
            config.desired.listeners[0].address,
            gateway.parse().unwrap()
        );
        let config = load_text(&format!("[api]\nlisten = \"{listen}\"")).unwrap();
        let expected = [ApiAddress::Tcp(api.parse().unwrap())];
        assert_eq!(config.daemon.api.listen, expected);
    }
    let config = load_text("[gateway]\nlisten = []\n[api]\nlisten = 81").unwrap();
    assert_eq!(config.desired.listeners, []);
    let expected = [ApiAddress::Tcp("127.0.0.1:81".parse().unwrap())];
    assert_eq!(config.daemon.api.listen, expected);
}

#[test]
fn the_api_listens_in_several_places() {
    let places = |config: &Config| -> Vec<String> {
        let listen = &config.daemon.api.listen;
        listen.iter().map(ToString::to_string).collect()
    };
    let text = "[api]\nlisten = [7700, \"unix:/run/lb/api.sock\"]\nsocket_mode = \"0660\"\n\
                socket_owner = \"root:0\"\n";
    let config = load_text(text).unwrap();
    let both = ["127.0.0.1:7700", "unix:/run/lb/api.sock"];
    assert_eq!(places(&config), both);
    assert_eq!(
        setting(&config, "api.listen"),
        "[\"127.0.0.1:7700\", \"unix:/run/lb/api.sock\"] # lb.toml:2:10"
    );
    let socket = &config.daemon.api.socket;
    assert_eq!(socket.mode, 0o660);
    let owner = socket.owner.as_ref().unwrap();
    assert_eq!((owner.user, owner.group), (Some(0), Some(0)));
    assert!(
        config
            .summary()
            .to_string()
            .contains("API on 127.0.0.1:7700, unix:/run/lb/api.sock and")
    );
    // No shell knows lists.
    let env = [("LB_API_LISTEN", "7700, unix:/run/lb/api.sock")];
    let config = load_all("", &env, &Overrides::default()).unwrap();
    assert_eq!(places(&config), both);
    let alone = load_text("api.listen = \"unix:/run/lb/api.sock\"").unwrap();
    assert_eq!(places(&alone), ["unix:/run/lb/api.sock"]);
}

#[test]
fn a_token_comes_from_one_place_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "from-file\n").unwrap();
    let text = format!("[api]\ntoken_file = {:?}\n", file.display().to_string());
    let token = |config: &Config| config.daemon.api.access.tokens[0].digest.to_vec();
    let hash = |text: &str| digest(&SHA256, text.as_bytes()).as_ref().to_vec();
    assert_eq!(token(&load_text(&text).unwrap()), hash("from-file"));
    let env = [("LB_API_TOKEN", "from-env")];
    let config = load_all(&text, &env, &Overrides::default()).unwrap();
    assert_eq!(token(&config), hash("from-env"));
    assert!(!config.effective().to_string().contains("from-env"));
    let both = load_text(&format!("{text}token = \"a\"")).map(|_| ());
    assert_eq!(
        both.unwrap_err().list()[0].expected,
        "either token or token_file"
    );

    let secret = load_text("[api]\ntoken = \"two words\"")
        .unwrap_err()
        .to_string();
    assert!(!secret.contains("two words"), "{secret}");
}

#[test]
fn tokens_have_names_and_roles() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "hush-two\n").unwrap();
    let hash = "c846af09c88a238676292c8cb78c9ba097ba8f24a11014de6de1c6a510d6db7f"; // of "hush-three"
    let text = format!(
        "[api]\ntoken = \"hush-zero\"\nloopback_role = \"none\"\n\
         [[api.tokens]]\nname = \"a\"\ntoken = \"hush-one\"\nrole = \"read\"\n\
         [[api.tokens]]\nname = \"b\"\ntoken_file = {:?}\nrole = \"operate\"\n\
         [[api.tokens]]\nname = \"c\"\ntoken_sha256 = \"{hash}\"\nrole = \"configure\"\n",
        file.display().to_string()
    );
    let config = load_text(&text).unwrap();
    let access = &config.daemon.api.access;
    assert_eq!(access.loopback, None);
    let expected = [
        ("api.token", "hush-zero", Role::Configure),
        ("a", "hush-one", Role::Read),
        ("b", "hush-two", Role::Operate),
        ("c", "hush-three", Role::Configure),
    ];
    assert_eq!(access.tokens.len(), expected.len());
    for (token, (name, text, role)) in access.tokens.iter().zip(expected) {
        assert_eq!((&*token.name, token.role), (name, role));
        assert_eq!(token.digest, digest(&SHA256, text.as_bytes()).as_ref());
    }
    let shown = format!("{}{config:?}", config.effective());
    for secret in ["hush", hash] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}
