//! Many devices at one time: `cargo test -p weir-identity storm -- --nocapture` prints figures.

use std::time::Instant;

use futures::future::join_all;

use super::passwords::{RIGHT, kind, log_in, log_in_from, with_passwords};
use super::*;
use crate::Passwords;

#[tokio::test]
async fn two_thousand_devices_that_connect_again_need_no_hash() {
    const DEVICES: usize = 20;
    let (world, passwords) = with_passwords(2).await;
    let users: Vec<_> = (0..DEVICES).map(|n| format!("t/d{n}")).collect();
    for n in 0..DEVICES {
        world.choose("t", &format!("d{n}"), RIGHT).await.unwrap();
    }
    let mut cold = Vec::new();
    for user in &users {
        let began = Instant::now();
        log_in(&world.gate, user, RIGHT).await.unwrap();
        cold.push(began.elapsed());
    }
    cold.sort_unstable();
    let (made, began) = (passwords.made(), Instant::now());
    for user in users.iter().cycle().take(2000) {
        log_in(&world.gate, user, RIGHT).await.unwrap();
    }
    let each = began.elapsed() / 2000;
    println!(
        "chosen passwords: {each:?} when recognised; {:?} with a hash, {} MiB for each thread",
        cold[DEVICES / 2],
        Passwords::MEMORY_BYTES >> 20
    );
    assert_eq!(passwords.made(), made);
}

/// Guesses come from as many addresses as there are, for names that exist and others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_guesses_delays_neither_devices_with_secrets_nor_those_that_are_recognised_and_others_get_a_turn() {
    const GUESSES: usize = 400;
    let (world, passwords) = with_passwords(2).await;
    let mut secrets = Vec::new();
    for n in 0..50 {
        secrets.push((format!("s{n}"), world.device(&format!("s{n}"), None).await.1));
    }
    for device in ["victim", "known", "cold"] {
        world.choose("t", device, RIGHT).await.unwrap();
    }
    log_in_from(&world.gate, "10.9.9.1:1", "t/known", RIGHT).await.unwrap();
    let guess = async |n: usize| {
        let user = if n.is_multiple_of(40) { "t/victim".to_owned() } else { format!("t/unknown{n}") };
        let from = format!("10.{}.{}.1:1", n / 250, n % 250);
        // Until it has had an answer: a full queue is none.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            match kind(log_in_from(&world.gate, &from, &user, "wrong horse battery").await) {
                Some(RefusalKind::Busy) => tokio::task::yield_now().await,
                outcome => return outcome,
            }
        }
        Some(RefusalKind::Busy)
    };
    let made = passwords.made();
    let mut flood = std::pin::pin!(join_all((0..GUESSES).map(guess)));
    let others = async {
        while passwords.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        // The time of each, and the hashes that were made meanwhile.
        let since = |began: Instant, made: usize| (began.elapsed(), passwords.made() - made);
        let mut times = Vec::new();
        for (device, secret) in &secrets {
            let (began, made) = (Instant::now(), passwords.made());
            connect_from(&world.gate, "10.9.9.2:1", device, secret.expose()).await.unwrap();
            times.push(since(began, made));
            let (began, made) = (Instant::now(), passwords.made());
            log_in_from(&world.gate, "10.9.9.1:1", "t/known", RIGHT).await.unwrap();
            times.push(since(began, made));
        }
        let (began, made) = (Instant::now(), passwords.made());
        log_in_from(&world.gate, "10.9.9.3:1", "t/cold", RIGHT).await.unwrap();
        let hashes: usize = times.iter().map(|(_, made)| made).sum();
        (times.into_iter().max().unwrap_or_default().0, hashes, since(began, made))
    };
    let (slowest, hashes, (cold, turn)) = tokio::select! {
        done = others => done,
        _ = &mut flood => panic!("the flood is over before the others have connected"),
    };
    println!("during a flood of guesses: {slowest:?} at most with a secret or recognised, {cold:?} with a hash");
    assert!(passwords.made() - made < GUESSES, "the flood goes on");
    // By hashes and not by time: the machine may be busy with other things.
    assert!(hashes < 2 * secrets.len(), "{hashes} hashes were waited for by a hundred devices that need none");
    assert!(turn < GUESSES / 4, "its turn comes after {turn} hashes");
}
