//! Mosquitto, also as a bridge.

use std::path::Path;

use super::Server;

/// A Mosquitto that admits every client.
#[derive(Debug)]
pub struct Mosquitto(pub Server);

impl Mosquitto {
    /// Starts a Mosquitto; `more` are lines of its configuration.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(dir: &Path, more: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join("mosquitto.conf");
        let mut written = Ok(());
        let server = Server::start("mosquitto", dir, |port| {
            let text = format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\nlog_type all\n{more}\n"
            );
            written = std::fs::write(&file, text);
            vec!["-c".to_owned(), file.display().to_string()]
        })?;
        written?;
        Ok(Self(server))
    }
}
