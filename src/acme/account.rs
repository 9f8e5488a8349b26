//! The account at an authority: made once for each authority and address of mail, kept with its key.

use std::path::{Path, PathBuf};

use instant_acme::{Account, AccountCredentials, NewAccount};
use sha2::{Digest, Sha256};

use super::client::{Client, patiently};
use super::{Error, record};
use crate::model::edge::Acme;

pub async fn open(store: &Path, acme: &Acme, client: Client) -> Result<Account, Error> {
    let path = path(store, acme);
    let builder = || Account::builder_with_http(Box::new(client.clone()));
    let known = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<AccountCredentials>(&text).ok());
    if let Some(known) = known {
        return Ok(builder().from_credentials(known).await?);
    }
    let contact = format!("mailto:{}", acme.email);
    let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = patiently!(builder().create(&new, acme.directory.clone(), None))?;
    let text = serde_json::to_vec(&credentials).map_err(instant_acme::Error::from)?;
    record::write(&path, &text)?;
    Ok(account)
}

fn path(store: &Path, acme: &Acme) -> PathBuf {
    let hash = Sha256::digest(format!("{} {}", acme.directory, acme.email));
    let short: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    record::folder(store).join(format!("account-{short}.json"))
}
