//! What a git server asks for: it comes in with a repository's URL and is kept apart from it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::{Invalid, RepoUrl};

/// A user and a password, for one server only.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// `https://git.example.com:8443`, in lower case: nobody else gets it.
    pub site: String,
    pub user: String,
    /// Empty where a token stood alone, in the user's place.
    pub password: String,
}

/// Whatever prints one prints no secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Credential({})", self.site)
    }
}

impl Credential {
    /// Of an http or https URL that has one. An error shows nothing of the URL: where its password ends cannot be told.
    pub fn of(repo: &RepoUrl) -> Result<Option<Credential>, Invalid> {
        let invalid = |rule| Err(Invalid { value: None, rule });
        let Some((scheme, login, rest)) = repo.web_parts() else { return Ok(None) };
        let host = rest.split('/').next().unwrap_or("");
        let port = if host.ends_with(']') { "" } else { host.rsplit_once(':').map_or("", |(_, port)| port) };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
        // git would take the beginning of the password for the host.
        if !host.chars().all(plain) || !port.chars().all(|c| c.is_ascii_digit()) {
            return invalid("what stands where a URL has its host is none; a / in a user or password is written %2F");
        }
        let Some(login) = login else { return Ok(None) };
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (Some(user), Some(password)) = (decoded(user), decoded(password)) else {
            return invalid("its user or password is not UTF-8, or has control characters");
        };
        if user.is_empty() && password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential { site: format!("{scheme}://{host}").to_ascii_lowercase(), user, password }))
    }

    /// For the environment of a child; read there by [`from_env`](Credential::from_env).
    pub fn to_env(&self) -> String {
        [&*self.site, &*self.user, &*self.password].join("\n") // none of them has a line's end
    }

    pub fn from_env(text: &str) -> Option<Credential> {
        let mut lines = text.split('\n').map(str::to_string);
        Some(Credential { site: lines.next()?, user: lines.next()?, password: lines.next()? })
    }

    /// What git's `credential` protocol asks (`protocol=`, `host=` … a line each), answered in its words. Nothing for another server.
    pub fn answer(&self, asked: &str) -> Option<String> {
        let value = |name: &str| asked.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("");
        let site = format!("{}://{}", value("protocol"), value("host"));
        site.eq_ignore_ascii_case(&self.site).then(|| format!("username={}\npassword={}\n", self.user, self.password))
    }
}

/// Percent-encoding undone.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = bytes.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code.filter(|_| *byte == b'%') {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Option<(String, String, String)>, Invalid> {
        let found = Credential::of(&RepoUrl::try_from(url).unwrap())?;
        Ok(found.map(|Credential { site, user, password }| (site, user, password)))
    }

    #[test]
    fn a_password_or_a_token_is_taken_out_of_a_web_url() {
        let some = |site: &str, user: &str, password: &str| Ok(Some((site.to_owned(), user.to_owned(), password.to_owned())));
        for (url, bare, expected) in [
            ("https://u:p@h/x", "https://h/x", some("https://h", "u", "p")),
            ("https://token@H:8443/x", "https://H:8443/x", some("https://h:8443", "token", "")),
            ("http://:p@[::1]:80/x", "http://[::1]:80/x", some("http://[::1]:80", "", "p")),
            ("https://u:p%40s%2Fs%c3%a9%zz@h/x", "https://h/x", some("https://h", "u", "p@s/sé%zz")),
            ("https://u:p@s?:#w@h/x@y", "https://h/x@y", some("https://h", "u", "p@s?:#w")),
            ("https://@h/x", "https://h/x", Ok(None)),
            ("https://:@h/x", "https://h/x", Ok(None)),
            ("https://h/x@y", "https://h/x@y", Ok(None)),
            ("ssh://git@h/x", "ssh://git@h/x", Ok(None)),
            ("git@h:x", "git@h:x", Ok(None)),
            ("/srv/a@b:c", "/srv/a@b:c", Ok(None)),
        ] {
            assert_eq!(of(url), expected, "{url}");
            assert_eq!(&*RepoUrl::try_from(url).unwrap().bare(), bare);
        }
        for bad in ["https://u:pa/ss@h/x", "https://u:%0ap@h/x", "https://u:%ff@h/x", "https://u:p@h=x/y"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_its_own_server_is_answered() {
        let credential = Credential::of(&RepoUrl::try_from("https://u:p@git.example.com:8443/x").unwrap()).unwrap().unwrap();
        let answer = |asked: &str| credential.answer(asked);
        assert_eq!(answer("protocol=https\nhost=Git.example.com:8443\n").as_deref(), Some("username=u\npassword=p\n"));
        for other in ["", "protocol=http\nhost=git.example.com:8443", "protocol=https\nhost=git.example.com", "protocol=https\nhost=evil"] {
            assert_eq!(answer(other), None, "{other}");
        }
        assert!(!format!("{credential:?}").contains('u'));
    }
}
