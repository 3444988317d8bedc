//! The import graph inside each crate of the workspace: no circle of files, so that each file can
//! be read with those below it alone.
//!
//! An import is a path from the code of one file to an item of another, outside of tests, followed
//! through re-exports to the file that defines the item. Methods are not followed, so that a type
//! whose `impl` blocks stand in several files may call from each into the others.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// A path of names, as `["crate", "a", "b"]`. A module's own path begins below `crate`.
type Names = Vec<String>;

/// A module: a file, or a `mod` with a body inside one.
#[derive(Default)]
struct Module {
    file: PathBuf,
    /// The names of the items that it defines.
    items: BTreeSet<String>,
    /// What its `use` declarations bring in: the name here, `true` if it is passed on (`pub use`),
    /// and the path.
    uses: Vec<(String, bool, Names)>,
    /// The paths of its `use` declarations that end with `*`.
    globs: Vec<Names>,
    /// Every path in its code.
    paths: BTreeSet<Names>,
}

/// The modules of a crate, by their paths.
#[derive(Default)]
struct Crate(BTreeMap<Names, Module>);

/// Returns `true` if the item is compiled for tests only.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns the path of an attribute `#[path = "…"]`.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) if pair.path.is_ident("path") => {
                Some(path.value())
            }
            _ => None,
        }
    })
}

/// Returns the name that an item defines.
fn name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

impl Module {
    fn declare(&mut self, tree: &UseTree, public: bool, prefix: &mut Names) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.declare(&path.tree, public, prefix);
                prefix.pop();
            }
            UseTree::Name(name) if name.ident == "self" => self.bring(prefix.last().cloned(), public, prefix),
            UseTree::Name(name) => {
                prefix.push(name.ident.to_string());
                self.bring(prefix.last().cloned(), public, prefix);
                prefix.pop();
            }
            UseTree::Rename(rename) => {
                if rename.ident != "self" {
                    prefix.push(rename.ident.to_string());
                }
                self.bring(Some(rename.rename.to_string()), public, prefix);
                if rename.ident != "self" {
                    prefix.pop();
                }
            }
            UseTree::Glob(_) => self.globs.push(prefix.clone()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.declare(tree, public, prefix)),
        }
    }

    fn bring(&mut self, name: Option<String>, public: bool, path: &Names) {
        self.uses.extend(name.map(|name| (name, public, path.clone())));
    }
}

impl<'ast> Visit<'ast> for Module {
    fn visit_item(&mut self, item: &'ast Item) {
        if !for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }
    // A module with a body is visited separately.
    fn visit_item_mod(&mut self, _: &'ast syn::ItemMod) {}
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let public = !matches!(item.vis, Visibility::Inherited);
        self.declare(&item.tree, public, &mut Names::new());
    }
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // The arguments of a macro are not parsed: their paths are read from the text.
        let text = call.tokens.to_string().replace(" :: ", "::");
        for word in text.split(|other: char| !(other.is_alphanumeric() || other == '_' || other == ':')) {
            let names: Names = word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
            if names.len() > 1 {
                self.paths.insert(names);
            }
        }
    }
}

impl Crate {
    fn read(root: &Path) -> Crate {
        let mut all = Crate::default();
        let text = std::fs::read_to_string(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        let items = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", root.display())).items;
        all.add(&items, Names::new(), root, root.parent().unwrap());
        all
    }

    /// Adds a module of these items, and those within it. Its child modules' files are in `folder`.
    fn add(&mut self, items: &[Item], path: Names, file: &Path, folder: &Path) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        for item in items.iter().filter(|item| !for_tests(attributes(item))) {
            module.items.extend(name(item));
            module.visit_item(item);
            let Item::Mod(child) = item else { continue };
            let name = child.ident.to_string();
            let inner: Names = path.iter().cloned().chain([name.clone()]).collect();
            if let Some((_, items)) = &child.content {
                self.add(items, inner, file, &folder.join(&name));
                continue;
            }
            // `#[path]` is relative to the folder of the file that has it. Its modules are beside
            // it.
            let given = path_attribute(&child.attrs).map(|path| file.parent().unwrap().join(path));
            let files = [folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")];
            let file = given.as_ref().or_else(|| files.iter().find(|file| file.exists()));
            let file = file.unwrap_or_else(|| panic!("{files:?}: none exists"));
            let text = std::fs::read_to_string(file).unwrap();
            let items = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())).items;
            let inside = given.as_ref().map_or_else(|| folder.join(&name), |file| file.parent().unwrap().to_owned());
            self.add(&items, inner, file, &inside);
        }
        self.0.insert(path, module);
    }

    /// Returns the file that defines what `path` names in the module `here`; `None` if it is not of
    /// this crate.
    fn resolve(&self, here: &[String], path: &[String], depth: usize) -> Option<&Path> {
        let mut at = here.to_vec();
        for (index, name) in path.iter().enumerate() {
            match name.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => {
                    at.pop()?;
                }
                _ => {
                    at.push(name.clone());
                    if !self.0.contains_key(&at) {
                        at.pop();
                        return self.item(&at, &path[index..], depth);
                    }
                }
            }
        }
        Some(&self.0.get(&at)?.file)
    }

    /// Returns the file that defines the first name of `path`, which is no module in the module
    /// `at`.
    fn item(&self, at: &[String], path: &[String], depth: usize) -> Option<&Path> {
        let module = self.0.get(at)?;
        let name = path.first()?;
        if module.items.contains(name) {
            return Some(&module.file);
        }
        if depth == 8 {
            return None;
        }
        // A name that was brought in is where it was brought from.
        if let Some((.., from)) = module.uses.iter().find(|brought| brought.0 == *name) {
            let from: Names = from.iter().chain(&path[1..]).cloned().collect();
            return self.resolve(at, &from, depth + 1);
        }
        module.globs.iter().find_map(|glob| {
            let from: Names = glob.iter().chain(path).cloned().collect();
            self.resolve(at, &from, depth + 1)
        })
    }

    /// Returns the imports: from a file to a file, and a path by which it is.
    fn imports(&self) -> BTreeMap<(&Path, &Path), String> {
        let mut found = BTreeMap::new();
        for (at, module) in &self.0 {
            let used = |name: &String| module.paths.iter().any(|path| path.first() == Some(name));
            let uses = module.uses.iter().filter(|(name, public, _)| !public || used(name)).map(|(.., path)| path);
            let paths = module.paths.iter().filter(|path| path.len() > 1);
            for path in uses.chain(&module.globs).chain(paths) {
                let to = self.resolve(at, path, 0).filter(|to| *to != module.file);
                found.extend(to.map(|to| ((module.file.as_path(), to), path.join("::"))));
            }
        }
        found
    }

    /// Returns a line for each import that is part of a circle.
    fn circles(&self) -> Vec<String> {
        let imports = self.imports();
        let graph: DiGraphMap<&Path, ()> = imports.keys().map(|(from, to)| (*from, *to, ())).collect();
        let mut lines = Vec::new();
        for circle in tarjan_scc(&graph).iter().filter(|files| files.len() > 1) {
            let inside = imports.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
            lines.extend(inside.map(|((from, to), path)| format!("{} -> {}: {path}", from.display(), to.display())));
        }
        lines
    }
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let metadata =
        cargo_metadata::MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec().unwrap();
    let (mut circles, mut files, mut imports) = (Vec::new(), 0, 0);
    for package in &metadata.packages {
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            let read = Crate::read(target.src_path.as_std_path());
            files += read.0.values().map(|module| &module.file).collect::<BTreeSet<_>>().len();
            imports += read.imports().len();
            circles.extend(read.circles());
        }
    }
    assert!(files > 300 && imports > 700, "{files} files, {imports} imports");
    assert!(circles.is_empty(), "circles of imports:\n{}", circles.join("\n").replace(root.to_str().unwrap(), ""));
}

#[test]
fn a_circle_is_found_through_a_reexport_and_a_macro() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod a; mod b; mod c; pub use a::A; pub use b::B;");
    write("a.rs", "pub struct A; impl A { fn f() { let _ = crate::B; } }");
    write("b.rs", "use super::c; pub struct B; impl B { fn f() -> c::C { c::C } }");
    write("c.rs", "pub struct C; #[cfg(test)] mod tests { use crate::A; }");
    let circles = || Crate::read(&folder.path().join("lib.rs")).circles();
    assert_eq!(circles(), Vec::<String>::new());
    write("c.rs", "pub struct C; fn f() { println!(\"{}\", crate::A::NAME); }");
    assert_eq!(circles().len(), 3);
}
