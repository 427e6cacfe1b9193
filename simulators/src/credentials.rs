//! Passwords of devices: a CSV file of `device,password`, and secrets that Weir makes for a fleet.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use proto::v1::access_service_client::AccessServiceClient;
use proto::v1::{CreateDeviceCredentialRequest, DeviceCredential};

use crate::oracle::Weir;

/// Calls at one time.
const PARALLEL: usize = 32;
const HEADER: [&str; 2] = ["device", "password"];

/// Passwords by device id. Cheap to clone.
#[derive(Clone, Default)]
pub struct Credentials(Arc<HashMap<Box<str>, Box<str>>>);

impl std::fmt::Debug for Credentials {
    /// Without the passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Credentials").field(&self.0.len()).finish()
    }
}

impl Credentials {
    /// Reads a CSV file with the columns `device` and `password`.
    ///
    /// # Errors
    /// Names the file and the line.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let mut reader = csv::Reader::from_path(path).with_context(|| format!("cannot read {}", path.display()))?;
        let header = reader.headers().with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            header.iter().eq(HEADER),
            "{} does not begin with device,password: make it with `weir-sim credentials`",
            path.display()
        );
        let mut passwords = HashMap::new();
        for row in reader.records() {
            let row = row.with_context(|| format!("cannot read {}", path.display()))?;
            passwords.insert(row[0].into(), row[1].into());
        }
        Ok(Self(Arc::new(passwords)))
    }

    /// Returns the password of a device.
    pub fn password(&self, device: &str) -> Option<&str> {
        self.0.get(device).map(|password| &**password)
    }
}

/// Creates a secret of each device in Weir, and writes it to `out` as a line of CSV.
///
/// # Errors
/// When a call fails: secrets that were written before are valid.
pub async fn create(
    weir: &Weir,
    tenant: &str,
    devices: impl IntoIterator<Item = String>,
    out: impl Write,
) -> anyhow::Result<()> {
    let mut out = csv::Writer::from_writer(out);
    out.write_record(HEADER)?;
    let secrets = stream::iter(devices).map(async |device| {
        let parent = format!("tenants/{tenant}/devices/{}", device.replace('%', "%25").replace('/', "%2F"));
        let device_credential = Some(DeviceCredential::default());
        let request = CreateDeviceCredentialRequest { parent, device_credential, ..Default::default() };
        let mut client = AccessServiceClient::new(weir.channel());
        let made = client.create_device_credential(weir.request(request)).await;
        let made = made.with_context(|| format!("create a secret of the device {device}"))?;
        anyhow::Ok((device, made.into_inner().secret))
    });
    let mut secrets = std::pin::pin!(secrets.buffered(PARALLEL));
    while let Some((device, secret)) = secrets.try_next().await? {
        out.write_record([device, secret])?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Credentials> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        Credentials::read(file.path())
    }

    #[test]
    fn passwords_are_found_by_device_and_are_not_shown() {
        let credentials = read("device,password\nd1,wd_1\n\"a,b\",wd_2\n").unwrap();
        assert_eq!((credentials.password("d1"), credentials.password("a,b")), (Some("wd_1"), Some("wd_2")));
        assert_eq!(credentials.password("d2"), None);
        assert!(!format!("{credentials:?}").contains("wd_"));
    }

    #[test]
    fn a_file_of_another_form_is_refused_with_its_name_and_line() {
        let error = format!("{:#}", read("d1,wd_1\n").unwrap_err());
        assert!(error.contains("device,password"), "{error}");
        let error = format!("{:#}", read("device,password\nd1,wd_1,x\n").unwrap_err());
        assert!(error.contains("line: 2"), "{error}");
    }
}
