//! One order for all names of an environment, from the request to the file, and when the authority wants the next one.

use std::time::SystemTime;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};

use super::client::{Client, patiently};
use super::{Error, Place, Wish, account, record};
use crate::tls::{Given, Own, Posted};

pub async fn fulfil(place: &Place, wish: &Wish) -> Result<(), Error> {
    let account = open(place, wish).await?;
    let names: Vec<_> = wish.names.iter().map(|name| Identifier::Dns(name.to_string())).collect();
    let mut order = patiently!(account.new_order(&NewOrder::new(&names)))?;
    patiently!(authorizations(&mut order))?;
    let _posted = answer(place, &mut order).await?;
    if !matches!(order.state().status, OrderStatus::Ready | OrderStatus::Valid) {
        let status = patiently!(order.poll_ready(&RetryPolicy::default()));
        if !matches!(status, Ok(OrderStatus::Ready)) {
            let why = refused(&mut order).await;
            return Err(match (why, status) {
                (Some(why), _) => why,
                (None, Err(error)) => error.into(),
                (None, Ok(_)) => Error::Useless("the order was refused, and no reason given".to_owned()),
            });
        }
    }
    let key = patiently!(order.finalize())?;
    let chain = patiently!(order.poll_certificate(&RetryPolicy::default()))?;
    let text = format!("{key}{chain}");
    let own = Given::check(&text, SystemTime::now()).map_err(Error::Useless)?;
    if let Some(name) = wish.names.iter().find(|name| !own.covers(name.as_str())) {
        return Err(Error::Useless(format!("it is not for `{name}`")));
    }
    record::write(Given::of(&place.store, &wish.id).path(), text.as_bytes())
}

async fn open(place: &Place, wish: &Wish) -> Result<Account, Error> {
    // A private authority is believed by its own certificates alone.
    let believed = wish.acme.ca.as_ref().map_or_else(place.believed, |ca| ca.clone().into_bytes());
    account::open(&place.store, &wish.acme, Client::new(&believed)?).await
}

/// Fetches what is to be proven, which the order then knows.
async fn authorizations(order: &mut Order) -> Result<(), instant_acme::Error> {
    let mut all = order.authorizations();
    while let Some(one) = all.next().await {
        one?;
    }
    Ok(())
}

/// Puts what the authority looks for where it looks, and tells it to.
async fn answer(place: &Place, order: &mut Order) -> Result<Vec<Posted>, Error> {
    let mut posted = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let challenge = authorization.challenge(ChallengeType::Http01);
        let mut challenge = challenge.ok_or(Error::NoChallenge { name })?;
        posted.push(place.challenges.post(&challenge.token, challenge.key_authorization().as_str()));
        patiently!(challenge.set_ready())?;
    }
    Ok(posted)
}

/// What the authority saw at the first name that it refused.
async fn refused(order: &mut Order) -> Option<Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        patiently!(authorization.refresh()).ok()?;
        let name = authorization.identifier().to_string();
        let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            let reason = problem.detail.clone().unwrap_or_else(|| problem.to_string());
            return Some(Error::NotProven { name, reason });
        }
    }
    None
}

/// When the authority suggests to renew (RFC 9773), in seconds since 1970; `None` from one that suggests nothing.
pub async fn suggested(place: &Place, wish: &Wish, given: &Own) -> Option<i64> {
    let leaf = given.certified.cert.first()?;
    let account = open(place, wish).await.ok()?;
    let (info, _) = account.renewal_info(&CertificateIdentifier::try_from(leaf).ok()?).await.ok()?;
    let (start, end) = (info.suggested_window.start.unix_timestamp(), info.suggested_window.end.unix_timestamp());
    // Anywhere within, so that not everybody comes at once; for one certificate always the same.
    Some(start + (end - start).max(0) * i64::from(leaf.last().copied().unwrap_or_default()) / 256)
}
