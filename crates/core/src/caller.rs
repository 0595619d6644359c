//! Whom IAM vouches for: the caller of a function URL, reduced to what a person cannot choose.
//!
//! The name of a role's session is chosen by whoever assumes the role, so two sessions of one role are one caller here.
//! Only where the deployment says that an identity provider gives the names (`approval.named_sessions`) do they count.
//! A role's or user's unique id (`AROA…`, `AIDA…`) is compared, not its name: a name can be given again.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Somebody who asked or voted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// What tells callers apart: `AIDA…` of a user, `AROA…` of a role, `AROA…:name` of a session whose name counts.
    pub principal: String,
    /// The ARN without what a person can choose.
    pub name: String,
    /// The ARN as IAM reported it: kept for people and for CloudTrail, never compared.
    pub arn: String,
}

/// Why a caller cannot ask or vote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{arn} is {what}, and so nobody in particular: come as an IAM user or with a role")]
pub struct NobodyInParticular {
    /// As IAM reported it.
    pub arn: String,
    /// What it is.
    pub what: &'static str,
}

impl Caller {
    /// The caller that IAM reports as `user_arn` and `user_id`. In `named_sessions` are the names of the roles whose
    /// sessions are named by an identity provider.
    ///
    /// # Errors
    /// An account's root, a federated session, or an ARN and an id that do not fit each other.
    pub fn vouched(user_arn: &str, user_id: &str, named_sessions: &[String]) -> Result<Self, NobodyInParticular> {
        let nobody = |what| NobodyInParticular { arn: user_arn.chars().take(200).collect(), what };
        let caller = |principal: &str, name: String| Self { principal: principal.to_owned(), name, arn: user_arn.to_owned() };
        let mut parts = user_arn.splitn(6, ':');
        let (Some("arn"), Some(partition), Some(service), Some(""), Some(account), Some(resource)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(nobody("no ARN of IAM"));
        };
        let mut path = resource.split('/');
        match (service, path.next()) {
            ("iam", Some("user")) if user_id.starts_with("AIDA") && !user_id.contains(':') => Ok(caller(user_id, user_arn.to_owned())),
            ("sts", Some("assumed-role")) => {
                let (Some(role), Some(session), None) = (path.next(), path.next(), path.next()) else {
                    return Err(nobody("not a role's session"));
                };
                let Some((role_id, of)) = user_id.split_once(':').filter(|(id, _)| id.starts_with("AROA")) else {
                    return Err(nobody("a session without its role's id"));
                };
                if of != session {
                    return Err(nobody("a session whose id is another's"));
                }
                let name = format!("arn:{partition}:sts::{account}:assumed-role/{role}");
                match named_sessions.iter().any(|named| named == role) {
                    true => Ok(caller(user_id, format!("{name}/{session}"))),
                    false => Ok(caller(role_id, name)),
                }
            }
            ("sts", Some("federated-user")) => Err(nobody("a federated session, whose name its maker chose")),
            ("iam", Some("root")) => Err(nobody("the account's root")),
            _ => Err(nobody("neither a user nor a role's session")),
        }
    }

    /// Whether both are, as far as IAM can vouch, one person.
    pub fn is(&self, other: &Self) -> bool {
        self.principal == other.principal
    }
}

impl fmt::Display for Caller {
    /// The name and the unique id: nothing in it varies between two calls of one caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:sts::111122223333:assumed-role/dba";

    fn of(arn: &str, id: &str) -> Result<Caller, NobodyInParticular> {
        Caller::vouched(arn, id, &["sso".to_owned()])
    }

    #[test]
    fn the_name_that_a_session_gave_itself_does_not_make_it_somebody_else() {
        let ada = of(&format!("{ROLE}/ada"), "AROAEXAMPLE1:ada").unwrap();
        let bob = of(&format!("{ROLE}/bob"), "AROAEXAMPLE1:bob").unwrap();
        assert!(ada.is(&bob));
        assert_eq!(ada.to_string(), bob.to_string());
        assert_ne!(ada.arn, bob.arn, "what IAM reported is kept");
        assert!(!ada.is(&of(&format!("{ROLE}/ada"), "AROAEXAMPLE2:ada").unwrap()), "a role made anew is another one");
    }

    #[test]
    fn names_given_by_an_identity_provider_count_where_the_deployment_says_so() {
        let session =
            |name: &str| of(&format!("arn:aws:sts::111122223333:assumed-role/sso/{name}"), &format!("AROAEXAMPLE3:{name}")).unwrap();
        assert!(!session("ada@example.com").is(&session("bob@example.com")));
        assert!(session("ada@example.com").is(&session("ada@example.com")));
    }

    #[test]
    fn a_user_is_known_by_the_unique_id() {
        let ada = of("arn:aws:iam::111122223333:user/people/ada", "AIDAEXAMPLE1").unwrap();
        assert_eq!(ada.to_string(), "arn:aws:iam::111122223333:user/people/ada (AIDAEXAMPLE1)");
        assert!(!ada.is(&of("arn:aws:iam::111122223333:user/people/ada", "AIDAEXAMPLE2").unwrap()));
    }

    #[test]
    fn whoever_is_nobody_in_particular_is_refused() {
        for (arn, id) in [
            ("arn:aws:iam::111122223333:root", "111122223333"),
            ("arn:aws:sts::111122223333:federated-user/ada", "111122223333:ada"),
            ("arn:aws:sts::111122223333:assumed-role/dba/ada", "AROAEXAMPLE1:bob"),
            ("arn:aws:sts::111122223333:assumed-role/dba/ada", "AROAEXAMPLE1"),
            ("arn:aws:sts::111122223333:assumed-role/dba", "AROAEXAMPLE1:"),
            ("arn:aws:iam::111122223333:user/ada", "AROAEXAMPLE1:ada"),
            ("arn:aws:iam::111122223333:role/dba", "AROAEXAMPLE1"),
            ("ada", "AIDAEXAMPLE1"),
            ("", ""),
        ] {
            assert!(of(arn, id).is_err(), "{arn} {id}");
        }
    }
}
