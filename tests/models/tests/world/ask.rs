//! What the handshake asks of XenStore.

use cloister_interfaces::store;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Ask {
    ReadState,
    Read(String),
    Write(String, String),
    Watch(u16),
    Unwatch(u16),
    Begin,
    Commit,
    Abort,
}

impl Ask {
    /// Returns the request that an action of the handshake makes.
    pub fn of(action: &store::Action) -> Ask {
        let token = |token: &u16| *token;
        match action {
            store::Action::Read(path) if path.ends_with("/0/state") && !path.starts_with("device") => Ask::ReadState,
            store::Action::Read(path) if path.starts_with("device") => Ask::Read(path.to_string()),
            store::Action::Read(path) => {
                Ask::Read(path.rsplit_once("/vif/7/").map_or_else(String::new, |(_, name)| name.to_owned()))
            }
            store::Action::Write(path, bytes) => {
                Ask::Write(path.to_string(), String::from_utf8_lossy(bytes).into_owned())
            }
            store::Action::Watch(_, of) => Ask::Watch(token(of)),
            store::Action::Unwatch(_, of) => Ask::Unwatch(token(of)),
            store::Action::Begin => Ask::Begin,
            store::Action::Commit => Ask::Commit,
            store::Action::Abort => Ask::Abort,
            other => panic!("the policy does not allow {other:?}"),
        }
    }
}
