//! `weir tls`: certificates of a private authority.

use crate::cli::{TlsCommand, TlsOptions};
use crate::client::output::remark;

/// Makes the files, and prints how they are used.
///
/// # Errors
/// Names the file and what to do.
pub(crate) fn run(options: &TlsOptions) -> anyhow::Result<()> {
    match &options.command {
        TlsCommand::Create { dir, host, renew } => {
            let made = tls::create(dir, host, *renew)?;
            let (ca, certificate, key) = (made.ca.display(), made.certificate.display(), made.key.display());
            if made.is_new_ca {
                remark(&format!(
                    "{ca} is the certificate of a new authority: give it to devices and callers. {} signs certificates: \
                     keep it away from the server, and closed.",
                    dir.join("ca.key").display()
                ));
            }
            remark(&format!(
                "The certificate of the server is valid for {} days; a running Weir uses it within half a minute. In \
                 weir.toml:\n\n  [tls]\n  certificate = \"{certificate}\"\n  key = \"{key}\"\n\n  [mqtt]\n  tls_address = \
                 \"0.0.0.0:8883\"\n\nCommands: export WEIR_SERVER=https://localhost:50051 WEIR_CA={ca}",
                tls::DAYS
            ));
        }
        TlsCommand::Client { name, dir, renew } => {
            let made = tls::create_client(dir, name, *renew)?;
            let (ca, certificate, key) = (made.ca.display(), made.certificate.display(), made.key.display());
            remark(&format!(
                "The certificate of {name} is valid for {} days. For the client:\n  mosquitto_pub -p 8883 --cafile {ca} \
                 --cert {certificate} --key {key} …",
                tls::DAYS
            ));
        }
    }
    Ok(())
}
