//! The members of the cluster.

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: String,
    pub address: String,
    /// Neither failed nor left.
    pub alive: bool,
}

/// Dead: reported as failed or left, or not listed.
pub fn alive(members: &[Member], name: &str) -> bool {
    members.iter().any(|member| member.name == name && member.alive)
}
