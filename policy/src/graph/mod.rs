//! Makes the graph of a policy: services, the memory that they share, the queues, and the subjects
//! outside the image.
//!
//! Everything that crosses the image's edge has another colour. Memory that only one service maps
//! is listed in the service's box.

mod dot;
mod labels;
mod layout;
mod svg;

use cloister_caps::tables::Access;

use crate::authority::{Subject, names};
use crate::model::{MapAccess, Peer, Source};
use crate::read::render_size;
use crate::sound::Sound;

/// The kind of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NodeKind {
    /// Another domain, the XenStore daemon, the toolstack.
    Outside,
    /// A region that a subject outside can access.
    EdgeRegion,
    /// A region that several services map.
    Region,
    /// A service.
    Service,
}

/// A node, drawn as a box.
pub(crate) struct Node {
    pub kind: NodeKind,
    pub name: String,
    /// Smaller text below the name.
    pub details: Vec<String>,
    /// The column, from the left: outside first, then the services by the length of the chain of
    /// their clients.
    pub layer: usize,
}

/// The kind of an edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EdgeKind {
    /// Memory that crosses the image's edge.
    Share,
    /// An event channel.
    Events,
    /// A service that maps a region and writes it.
    Write,
    /// A service that maps a region and only reads it.
    Read,
    /// A queue, from the client to the server.
    Queue,
}

/// An edge. Its arrow is at `to`; an edge in both directions has another at `from`.
pub(crate) struct Edge {
    pub kind: EdgeKind,
    pub from: usize,
    pub to: usize,
    pub label: String,
    pub both: bool,
}

/// The graph of a policy.
pub struct Graph {
    title: String,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

impl Sound {
    /// Returns the graph of the policy.
    #[must_use]
    pub fn graph(&self) -> Graph {
        let mut builder = Builder {
            sound: self,
            graph: Graph { title: self.policy.image.name.clone(), nodes: Vec::new(), edges: Vec::new() },
        };
        builder.services();
        let outside = builder.outside();
        builder.regions(&outside);
        builder.channels(&outside);
        builder.queues();
        builder.graph
    }
}

/// The nodes of the subjects outside.
struct Outside {
    domains: Vec<usize>,
    daemon: Option<usize>,
    toolstack: Option<usize>,
}

struct Builder<'a> {
    sound: &'a Sound,
    graph: Graph,
}

impl Builder<'_> {
    fn node(&mut self, kind: NodeKind, name: impl Into<String>, details: Vec<String>, layer: usize) -> usize {
        let details = details.iter().flat_map(|detail| wrapped(detail)).collect();
        self.graph.nodes.push(Node { kind, name: name.into(), details, layer });
        self.graph.nodes.len() - 1
    }

    fn edge(&mut self, kind: EdgeKind, from: usize, to: usize, label: impl Into<String>, both: bool) {
        self.graph.edges.push(Edge { kind, from, to, label: label.into(), both });
    }

    /// Returns for each service the length of its longest chain of queues to a service that is
    /// no client.
    fn depths(&self) -> Vec<usize> {
        let index = &self.sound.index;
        let mut depths = vec![0; index.services.len()];
        // Requests form no cycle, so no chain is longer than the number of services.
        for _ in 0..index.services.len() {
            let mut changed = false;
            for ends in &index.queues {
                let deeper = depths.get(ends.to).map_or(0, |depth| depth + 1);
                if let Some(depth) = depths.get_mut(ends.from).filter(|depth| **depth < deeper) {
                    (*depth, changed) = (deeper, true);
                }
            }
            if !changed {
                break;
            }
        }
        depths
    }

    fn services(&mut self) {
        let (policy, depths) = (&self.sound.policy, self.depths());
        for (position, item) in policy.services.items.iter().enumerate() {
            let body = &item.body;
            let share = u64::from(body.budget_us.value) * 100 / u64::from(body.period_us.value.max(1));
            let mut details = vec![format!("{share} % processor"), format!("priority {}", body.priority)];
            let held: Vec<&str> = body.held.iter().map(|held| held.kind.name()).collect();
            if !held.is_empty() {
                details.push(held.join(", "));
            }
            for (region, _) in self.sound.index.services.get(position).map_or(&[][..], |around| &around.maps) {
                if let (true, Some(region)) = (self.is_private(*region), policy.regions.items.get(*region)) {
                    details.push(format!("{}:", region.name.value));
                    details.push(amount(region.body.source.value));
                }
            }
            let layer = 2 + 2 * depths.get(position).copied().unwrap_or(0);
            self.node(NodeKind::Service, &item.name.value, details, layer);
        }
    }

    fn is_private(&self, region: usize) -> bool {
        let source = self.sound.policy.regions.items.get(region).map(|item| item.body.source.value);
        let ours = matches!(source, Some(Source::Fixed { .. } | Source::Share { .. }));
        let alone = self.sound.index.maps.get(region).is_some_and(|map| map.len() == 1);
        ours && alone && !self.sound.index.granted.contains_key(&region)
    }

    fn outside(&mut self) -> Outside {
        let policy = &self.sound.policy;
        let mut domains = Vec::new();
        for item in &policy.domains.items {
            let (first, last) = (item.body.first, item.body.last);
            let ids = if first == last { format!("domain {first}") } else { format!("domain {first} to {last}") };
            let pin = item.body.pin.as_ref().map(|pin| format!("pinned by {}", pin.by.value));
            domains.push(self.node(NodeKind::Outside, &item.name.value, [ids].into_iter().chain(pin).collect(), 0));
        }
        let sources = || policy.regions.items.iter().map(|item| item.body.source.value);
        let daemon = sources().any(|source| source == Source::XenStoreRing)
            || policy.ports.items.iter().any(|port| matches!(port.body.peer, Peer::XenStore(_)));
        let toolstack = sources().any(|source| matches!(source, Source::Module | Source::CommandLine));
        let name = |subject| names::subject(policy, subject);
        Outside {
            domains,
            daemon: daemon.then(|| self.node(NodeKind::Outside, name(Subject::XenStoreDaemon), Vec::new(), 0)),
            toolstack: toolstack.then(|| self.node(NodeKind::Outside, name(Subject::Toolstack), Vec::new(), 0)),
        }
    }

    fn regions(&mut self, outside: &Outside) {
        let sound = self.sound;
        for (position, item) in sound.policy.regions.items.iter().enumerate() {
            if self.is_private(position) {
                continue;
            }
            let map = sound.index.maps.get(position).map_or(&[][..], Vec::as_slice);
            let grant = sound.index.granted.get(&position).copied();
            let source = item.body.source.value;
            let reached = match source {
                Source::XenStoreRing => outside.daemon.map(|node| (node, "shared page".to_owned(), true)),
                Source::Module | Source::CommandLine => {
                    outside.toolstack.map(|node| (node, "at boot".to_owned(), false))
                }
                _ => grant.and_then(|grant| self.granted(grant, outside)),
            };
            let layers = map.iter().filter_map(|(service, _)| self.graph.nodes.get(*service)).map(|node| node.layer);
            let lowest = layers.min().unwrap_or(2);
            let (kind, layer) =
                if reached.is_some() { (NodeKind::EdgeRegion, 1) } else { (NodeKind::Region, lowest + 1) };
            let node = self.node(kind, &item.name.value, vec![amount(source)], layer);
            if let Some((other, label, writes)) = reached {
                // The arrow points from the writer: a peer that only reads is at its end.
                let from_outside = matches!(source, Source::Module | Source::CommandLine);
                let (from, to) = if from_outside { (other, node) } else { (node, other) };
                self.edge(EdgeKind::Share, from, to, label, writes);
            }
            for (service, how) in map {
                match how {
                    MapAccess::Read => self.edge(EdgeKind::Read, node, *service, "", false),
                    MapAccess::ReadWrite | MapAccess::Heap => self.edge(EdgeKind::Write, *service, node, "", false),
                }
            }
        }
    }

    /// Returns the peer of a grant, its access as text, and `true` if it may write.
    fn granted(&self, grant: usize, outside: &Outside) -> Option<(usize, String, bool)> {
        let item = self.sound.policy.grants.items.get(grant)?;
        let peer = *outside.domains.get(self.sound.index.grants.get(grant)?.peer)?;
        let writes = item.body.access.value == Access::ReadWrite;
        let access = if writes { "read-write" } else { "read" };
        // The box of the region says how many pages it has.
        let region = self.sound.index.grants.get(grant).and_then(|of| self.sound.policy.regions.items.get(of.region));
        let whole = region.is_some_and(|of| of.body.source.value == Source::Fixed { pages: item.body.pages.value });
        let pages = names::counted(u64::from(item.body.pages.value), "page");
        let label = if whole { access.to_owned() } else { format!("{pages}\n{access}") };
        Some((peer, label, writes))
    }

    fn channels(&mut self, outside: &Outside) {
        let sound = self.sound;
        for (item, channel) in sound.policy.ports.items.iter().zip(&sound.index.ports) {
            let other = match channel.peer {
                Some(peer) => outside.domains.get(peer).copied(),
                None => outside.daemon,
            };
            if let Some(other) = other {
                self.edge(EdgeKind::Events, channel.service, other, &item.name.value, true);
            }
        }
    }

    fn queues(&mut self) {
        let sound = self.sound;
        for (item, ends) in sound.policy.queues.items.iter().zip(&sound.index.queues) {
            let (name, interface) = (&item.name.value, &item.body.interface.value);
            let label = if name == interface { name.clone() } else { format!("{name}:\n{interface}") };
            self.edge(EdgeKind::Queue, ends.from, ends.to, label, false);
        }
    }
}

/// The number of characters of a line in a box. A longer word is not broken.
const WIDEST: usize = 15;

/// Returns a detail in lines that are not too wide for a box.
fn wrapped(detail: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in detail.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDEST => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn amount(source: Source) -> String {
    match source {
        Source::Fixed { pages } => names::counted(u64::from(pages), "page"),
        Source::Share { minimum, maximum, .. } => format!("{} to {}", render_size(minimum), render_size(maximum)),
        Source::Module => "boot module".into(),
        Source::CommandLine => "command line".into(),
        Source::XenStoreRing => "one page".into(),
    }
}
