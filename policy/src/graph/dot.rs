//! Renders the graph in DOT, the language of Graphviz.

use std::fmt::Write;

use super::{Edge, EdgeKind, Graph, Node, NodeKind};

impl Graph {
    /// Renders the graph in DOT.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut out = String::from(
            "digraph policy {\n  rankdir = RL;\n  node [shape = box, fontname = \"sans-serif\"];\n  edge [fontname = \"sans-serif\", fontsize = 10];\n",
        );
        for (position, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.kind == NodeKind::Outside) {
            line(position, node, &mut out);
        }
        let _ = writeln!(out, "  subgraph cluster_image {{\n  label = {};", quoted(&self.title));
        for (position, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.kind != NodeKind::Outside) {
            line(position, node, &mut out);
        }
        out.push_str("  }\n");
        for edge in &self.edges {
            let both = if edge.both { ", dir = both" } else { "" };
            let _ = writeln!(
                out,
                "  n{} -> n{} [label = {}, {}{both}];",
                edge.from,
                edge.to,
                quoted(&edge.label),
                style(edge)
            );
        }
        out.push_str("}\n");
        out
    }
}

fn line(position: usize, node: &Node, out: &mut String) {
    let style = match node.kind {
        NodeKind::Outside => "style = filled, fillcolor = \"#fdecea\", color = \"#b3261e\"",
        NodeKind::EdgeRegion => "shape = cylinder, color = \"#b3261e\"",
        NodeKind::Region => "shape = cylinder",
        NodeKind::Service => "style = filled, fillcolor = \"#eaf1fb\"",
    };
    let text = std::iter::once(&node.name).chain(&node.details).cloned().collect::<Vec<_>>().join("\n");
    let _ = writeln!(out, "  n{position} [label = {}, {style}];", quoted(&text));
}

fn style(edge: &Edge) -> &'static str {
    match edge.kind {
        EdgeKind::Share => "color = \"#b3261e\", penwidth = 2",
        EdgeKind::Events => "color = \"#b3261e\", style = dashed",
        EdgeKind::Write => "color = \"#4a5058\", penwidth = 1.5",
        EdgeKind::Read => "color = \"#8a9099\"",
        EdgeKind::Queue => "color = \"#1f5fbf\", penwidth = 1.5",
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
