//! Errors at the start are one clear line.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_buffer::redis::{Config, Durability, Redis, Secret};

use crate::server::{SAFE, Server, free_port};

async fn line(config: Config) -> String {
    let line = Redis::connect(config).await.unwrap_err().to_string();
    assert!(!line.contains('\n') && !line.contains("secret"), "{line}");
    line
}

#[tokio::test]
async fn a_server_that_may_lose_what_it_acknowledged_is_refused_and_the_setting_named() {
    let cases: &[(&[&str], &str)] = &[
        (&["--appendonly", "no"], "appendonly no"),
        (&["--appendonly", "yes", "--appendfsync", "everysec"], "appendfsync everysec"),
        (&[SAFE[0], SAFE[1], SAFE[2], SAFE[3], "--no-appendfsync-on-rewrite", "yes"], "no-appendfsync-on-rewrite yes"),
        (&[SAFE[0], SAFE[1], SAFE[2], SAFE[3], "--maxmemory-policy", "allkeys-lru"], "maxmemory-policy allkeys-lru"),
        (&[SAFE[0], SAFE[1], SAFE[2], SAFE[3], "--maxmemory-policy", "volatile-ttl"], "maxmemory-policy volatile-ttl"),
    ];
    for (arguments, named) in cases {
        let Some(server) = Server::start_with(arguments) else { return };
        let line = line(server.config()).await;
        assert!(line.contains(named) && line.contains("redis.durability"), "{line}");
        Redis::connect(Config { durability: Durability::Relaxed, ..server.config() }).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_whose_settings_are_secret_is_refused() {
    let Some(server) = Server::start(&["--rename-command", "CONFIG", ""]) else { return };
    let line = line(server.config()).await;
    assert!(line.contains("CONFIG GET") && line.contains("redis.durability"), "{line}");
}

#[tokio::test]
async fn missing_passwords_are_reported_with_their_keys() {
    let user = ["--user", "weir", "on", ">secret2", "~*", "+@all"];
    let Some(server) = Server::start(&[&["--requirepass", "secret"], &user[..]].concat()) else { return };
    let missing = line(server.config()).await;
    assert!(missing.contains("redis.password"), "{missing}");
    let wrong = Config { password: Some(Secret("secret-not".into())), ..server.config() };
    let wrong = line(wrong).await;
    assert!(wrong.contains("redis.password"), "{wrong}");
    Redis::connect(Config { password: Some(Secret("secret".into())), ..server.config() }).await.unwrap();
    let user = Config { username: Some("weir".into()), password: Some(Secret("secret2".into())), ..server.config() };
    Redis::connect(user).await.unwrap();
    let in_url = Config { urls: vec![format!("redis://:secret@127.0.0.1:{}", server.port)], ..server.config() };
    Redis::connect(in_url).await.unwrap();
}

#[tokio::test]
async fn a_missing_permission_of_the_user_is_named() {
    let user = ["--user", "weir", "on", ">secret2", "~*", "+@all", "-eval", "-evalsha", "-script"];
    let Some(server) = Server::start(&user) else { return };
    let user = Config { username: Some("weir".into()), password: Some(Secret("secret2".into())), ..server.config() };
    let redis = Redis::connect(user).await.unwrap();
    let line = redis.create(Default::default()).await.err().unwrap().to_string();
    assert!(line.contains("lacks a permission") && line.contains("eval") && line.contains("redis.username"), "{line}");
}

#[tokio::test]
async fn a_server_that_is_away_or_not_a_master_is_named() {
    let away = Config { urls: vec![format!("redis://:secret@127.0.0.1:{}", free_port())], ..Config::default() };
    let away = line(away).await;
    assert!(away.contains("127.0.0.1") && away.contains("redis.urls"), "{away}");
    let Some(master) = Server::start(&[]) else { return };
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)]).unwrap();
    let replica = line(replica.config()).await;
    assert!(replica.contains("no master") && replica.contains("redis.urls"), "{replica}");
}

/// Listens, and gives this answer to the first bytes of each connection.
async fn port_that_answers(bytes: &'static [u8]) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut greeting = [0; 1024];
            if stream.read(&mut greeting).await.is_ok_and(|length| length > 0) {
                drop(stream.write_all(bytes).await);
            }
        }
    });
    port
}

#[tokio::test]
async fn tls_to_a_plain_port_and_plain_to_a_tls_port_are_named() {
    let said = async |scheme: &str, port: u16| {
        line(Config { urls: vec![format!("{scheme}://:secret@127.0.0.1:{port}")], ..Config::default() }).await
    };
    // A fatal alert: handshake_failure.
    let tls = said("redis", port_that_answers(&[21, 3, 3, 0, 2, 2, 40]).await).await;
    assert!(tls.contains("speaks TLS") && tls.contains("rediss://") && tls.contains("redis.urls"), "{tls}");
    let plain = said("rediss", port_that_answers(b"-ERR unknown command\r\n").await).await;
    assert!(plain.contains("does not speak TLS") && plain.contains("redis.urls"), "{plain}");
    let Some(server) = Server::start(&[]) else { return };
    let real = said("rediss", server.port).await;
    assert!(real.contains("does not speak TLS") && real.contains("write redis://"), "{real}");
}

#[tokio::test]
async fn an_inconsistent_configuration_names_its_key() {
    let two = vec!["redis://a".to_owned(), "redis://b".to_owned()];
    let base = Config { urls: vec!["redis://127.0.0.1:1".into()], ..Config::default() };
    let cases = [
        (Config { urls: vec![], ..base.clone() }, "redis.urls"),
        (Config { urls: two.clone(), ..base.clone() }, "redis.cluster"),
        (Config { urls: vec!["http://:secret@a".into()], ..base.clone() }, "redis.urls"),
        (Config { cluster: true, sentinel_master: Some("m".into()), ..base.clone() }, "redis.sentinel_master"),
        (Config { node: "a{b}".into(), ..base.clone() }, "redis.node"),
        (Config { prefix: String::new(), ..base.clone() }, "redis.prefix"),
        (Config { tls_ca_file: Some("/nowhere/ca.pem".into()), ..base.clone() }, "redis.tls_ca_file"),
        (Config { tls_cert_file: Some("/nowhere/cert.pem".into()), ..base.clone() }, "redis.tls_key_file"),
    ];
    for (config, key) in cases {
        let line = line(config).await;
        assert!(line.contains(key), "{line}");
    }
}

#[test]
fn a_password_is_not_printed() {
    let config = Config { password: Some(Secret("secret".into())), ..Config::default() };
    assert!(!format!("{config:?}").contains("secret\""), "{config:?}");
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
}
