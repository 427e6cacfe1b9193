//! The file of credentials: CSV, whose columns tell the kind. Keys and certificates are DER in
//! base64.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Credential, Kind};

impl Kind {
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Secret => &["device", "password"],
            Self::Jwt => &["device", "tenant", "key_id", "private_key"],
            Self::Certificate => &["device", "certificate", "private_key"],
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Secret, Kind::Jwt, Kind::Certificate];

/// Reads a file.
///
/// # Errors
/// Names the file and the line.
pub(super) fn read(path: &Path) -> anyhow::Result<HashMap<Box<str>, Credential>> {
    let name = || format!("cannot read {}", path.display());
    let mut reader = csv::Reader::from_path(path).with_context(name)?;
    let header = reader.headers().with_context(name)?;
    let Some(kind) = KINDS.into_iter().find(|kind| header.iter().eq(kind.columns().iter().copied())) else {
        let first = KINDS.map(|kind| kind.columns().join(","));
        bail!("{} begins with none of {}: make it with `weir-sim credentials`", path.display(), first.join(" | "));
    };
    let mut found = HashMap::new();
    for row in reader.records() {
        let row = row.with_context(name)?;
        let line = row.position().map_or(0, csv::Position::line);
        let credential = parse(kind, &row).with_context(|| format!("cannot read {}, line: {line}", path.display()))?;
        found.insert(row[0].into(), credential);
    }
    Ok(found)
}

fn parse(kind: Kind, row: &csv::StringRecord) -> anyhow::Result<Credential> {
    let der = |column: usize| {
        STANDARD.decode(&row[column]).with_context(|| format!("{} is not base64", kind.columns()[column]))
    };
    Ok(match kind {
        Kind::Secret => Credential::Password(row[1].into()),
        Kind::Jwt => Credential::Key { tenant: row[1].into(), id: row[2].into(), key: der(3)?.into() },
        Kind::Certificate => Credential::Certificate(tls::Identity { certificate: der(1)?, key: der(2)? }),
    })
}

/// Writes a file.
pub(super) struct Writer<W: Write>(csv::Writer<W>);

impl<W: Write> Writer<W> {
    pub(super) fn new(kind: Kind, out: W) -> anyhow::Result<Self> {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(kind.columns())?;
        Ok(Self(out))
    }

    pub(super) fn write(&mut self, device: &str, credential: &Credential) -> anyhow::Result<()> {
        match credential {
            Credential::Password(password) => self.0.write_record([device, password])?,
            Credential::Key { tenant, id, key } => {
                self.0.write_record([device, tenant, id, &STANDARD.encode(key)])?;
            }
            Credential::Certificate(tls::Identity { certificate, key }) => {
                self.0.write_record([device, &STANDARD.encode(certificate), &STANDARD.encode(key)])?;
            }
        }
        Ok(())
    }

    pub(super) fn end(mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}
