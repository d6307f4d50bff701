//! Certificates: an authority per region, which signs the certificates of its servers and clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::host::{WorkDir, give, write_private};

/// An authority for each region, and what they signed. The files go away with the value.
#[derive(Debug)]
pub struct Certs {
    dir: WorkDir,
}

/// A client's certificate, for [`Program::cert`](crate::Program::cert).
#[derive(Debug, Clone)]
pub struct ClientCert {
    /// The file with the certificate.
    pub cert: PathBuf,
    /// The file with its key.
    pub key: PathBuf,
    /// The file with the certificates of all authorities.
    pub authorities: PathBuf,
}

impl Certs {
    /// Makes an authority for each region. The subject of each is `O=REGION, CN=REGION authority`.
    ///
    /// # Errors
    /// If openssl is missing or fails.
    pub fn new(regions: &[&str]) -> Result<Self> {
        let certs = Self {
            dir: WorkDir::new()?,
        };
        let mut all = String::new();
        for region in regions {
            let cert = certs.path(&format!("ca-{region}.crt"));
            openssl(
                certs.dir.path(),
                &[
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-days",
                    "3650",
                    "-subj",
                    &format!("/O={region}/CN={region} authority"),
                    "-addext",
                    "keyUsage=critical,keyCertSign,cRLSign",
                    "-keyout",
                    &format!("ca-{region}.key"),
                    "-out",
                    &format!("ca-{region}.crt"),
                ],
            )?;
            all += &fs::read_to_string(cert)?;
        }
        write_private(&certs.authorities(), &all)?;
        Ok(certs)
    }

    /// The file with the certificates of all authorities.
    #[must_use]
    pub fn authorities(&self) -> PathBuf {
        self.path("authorities.crt")
    }

    /// The subject of a region's authority, as the server shows it in `pg_stat_ssl.issuer_dn`.
    #[must_use]
    pub fn issuer_dn(region: &str) -> String {
        format!("/O={region}/CN={region} authority")
    }

    /// A certificate with the subject `O=REGION, CN=ROLE`, signed by the region's authority.
    ///
    /// # Errors
    /// If there is no such region, or openssl fails.
    pub fn client(&self, region: &str, role: &str) -> Result<ClientCert> {
        let (cert, key) = self.sign(region, role, "client", &[])?;
        Ok(ClientCert {
            cert,
            key,
            authorities: self.authorities(),
        })
    }

    /// The settings that make a server use TLS with a certificate of this region, and ask clients for theirs.
    ///
    /// # Errors
    /// If there is no such region, or openssl fails.
    pub fn server_settings(&self, region: &str) -> Result<Vec<String>> {
        let (cert, key) = self.sign(
            region,
            "server",
            "server",
            &["subjectAltName=DNS:localhost,IP:127.0.0.1"],
        )?;
        Ok(vec![
            "ssl = on".to_owned(),
            format!("ssl_cert_file = '{}'", cert.display()),
            format!("ssl_key_file = '{}'", key.display()),
            format!("ssl_ca_file = '{}'", self.authorities().display()),
        ])
    }

    fn sign(
        &self,
        region: &str,
        name: &str,
        kind: &str,
        extensions: &[&str],
    ) -> Result<(PathBuf, PathBuf)> {
        let base = format!("{kind}-{region}-{name}");
        let (cert, key) = (
            self.path(&format!("{base}.crt")),
            self.path(&format!("{base}.key")),
        );
        if cert.exists() {
            return Ok((cert, key));
        }
        let subject = format!("/O={region}/CN={name}");
        let ca = (format!("ca-{region}.crt"), format!("ca-{region}.key"));
        let (cert_name, key_name) = (format!("{base}.crt"), format!("{base}.key"));
        let mut arguments = vec![
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            &subject,
            "-CA",
            &ca.0,
            "-CAkey",
            &ca.1,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        arguments.extend(["-keyout", &key_name, "-out", &cert_name]);
        openssl(self.dir.path(), &arguments)?;
        give(&cert)?;
        give(&key)?;
        Ok((cert, key))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Runs openssl in `dir`.
fn openssl(dir: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(dir)
        .output()
        .map_err(|e| Error::new(format!("could not run openssl: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::new(format!(
        "openssl {}: {reason}",
        arguments.join(" ")
    )))
}
