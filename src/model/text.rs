//! Text for people.

/// `text` without the passwords and tokens of its URLs (`https://user:token@host` → `https://***@host`).
pub fn redacted(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let host_end = after.find(|c: char| c == '/' || c.is_whitespace() || "'\"".contains(c)).unwrap_or(after.len());
        rest = match after[..host_end].rfind('@') {
            // A user name alone (ssh://git@host) is no secret, a token in its place (https://token@host) is.
            Some(user) if after[..user].contains(':') || !before.ends_with("ssh://") => {
                out.push_str("***");
                &after[user..]
            }
            _ => after,
        };
    }
    out + rest
}

/// `text` with the ids of containers and images as short as Docker shows them.
pub fn with_short_ids(text: &str) -> String {
    let hex = |part: &str| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split_inclusive(|c: char| !c.is_ascii_alphanumeric())
        .map(|part| {
            let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            if hex(word) { format!("{}{}", &word[..12], &part[64..]) } else { part.to_owned() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short() {
        let id = "0123456789ab".to_owned() + &"c".repeat(52);
        let text = format!("POST /images/sha256:{id}/tag?repo={id}x {id}");
        assert_eq!(with_short_ids(&text), format!("POST /images/sha256:0123456789ab/tag?repo={id}x 0123456789ab"));
    }

    #[test]
    fn secrets_of_urls_are_not_shown() {
        for (text, expected) in [
            ("https://u:p@h/x y https://t@h/", "https://***@h/x y https://***@h/"),
            ("ssh://git@h:22/x", "ssh://git@h:22/x"),
            ("file:///a@b", "file:///a@b"),
            ("git@h:x", "git@h:x"),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }
}
