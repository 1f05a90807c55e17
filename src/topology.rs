//! The processors of a machine, and the pure allocator that gives each of several jobs a set of its
//! own.
//!
//! It binds no process. Only [`Topology::of_this_machine`] reads the system. The one rule: no two
//! sets that one call hands out share a core.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io;

use crate::cpus::CpuSet;
use crate::io_error::into_io_error;
use crate::sys;

/// The processors of a machine: which of them are threads of the same core, and which cores are on
/// the same NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    cpus: Vec<Cpu>,
}

/// One processor. The numbers of the core and of the node only tell which processors share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cpu {
    number: u32,
    core: u32,
    node: u32,
}

/// The error of [`Topology::split`]: there are fewer processors than jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooFewCpus {
    /// The number of sets that were asked for.
    pub jobs: usize,
    /// The number of processors.
    pub cpus: usize,
}

impl fmt::Display for TooFewCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} jobs side by side need as many processors, and there are {}", self.jobs, self.cpus)
    }
}

impl Error for TooFewCpus {}

into_io_error!(TooFewCpus, |_| io::ErrorKind::InvalidInput);

impl Topology {
    /// Reads the processors that this thread may use, from `sched_getaffinity(2)` and
    /// `/sys/devices/system`.
    ///
    /// A processor about which `/sys` says nothing counts as a core of its own on node 0.
    ///
    /// # Errors
    ///
    /// `Unsupported` on systems other than Linux, or the error of `sched_getaffinity(2)`.
    pub fn of_this_machine() -> io::Result<Self> {
        let own = sys::cpus::own()?;
        let nodes = nodes();
        let cpus = own.into_iter().map(|number| {
            let siblings = format!("/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list");
            let siblings = fs::read_to_string(siblings).ok().and_then(|text| text.parse::<CpuSet>().ok());
            let core = siblings.and_then(|siblings| siblings.iter().next()).unwrap_or(number);
            let node = nodes.iter().find(|(_, cpus)| cpus.iter().any(|cpu| cpu == number)).map_or(0, |(node, _)| *node);
            Cpu { number, core, node }
        });
        Ok(Self { cpus: cpus.collect() })
    }

    /// Returns the same machine with these processors alone. The others are left out.
    #[must_use]
    pub fn restricted_to(&self, cpus: &CpuSet) -> Self {
        let kept = self.cpus.iter().filter(|cpu| cpus.iter().any(|number| number == cpu.number));
        Self { cpus: kept.copied().collect() }
    }

    /// Returns all processors.
    #[must_use]
    pub fn cpus(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.number).collect()
    }

    /// Returns the NUMA nodes of these processors, in ascending order.
    #[must_use]
    pub fn nodes_of(&self, cpus: &CpuSet) -> Vec<u32> {
        let nodes: CpuSet = self.restricted_to(cpus).cpus.iter().map(|cpu| cpu.node).collect();
        nodes.iter().collect()
    }

    /// Gives each of `jobs` a set of processors of its own, all of the same number of cores.
    ///
    /// A set has whole cores, with all threads of each, as long as there are enough cores. Two jobs
    /// share a core only if there are more jobs than cores. The cores of a set are on one NUMA
    /// node, unless there are fewer jobs than nodes. The sets are as large as that allows, and
    /// spread evenly over the nodes.
    ///
    /// # Errors
    ///
    /// [`TooFewCpus`] if there are more jobs than processors.
    ///
    /// ```
    /// use childminder::Topology;
    ///
    /// let machine = Topology::of_this_machine()?;
    /// let [all] = &machine.split(1)?[..] else { panic!("one job") };
    /// assert_eq!(*all, machine.cpus());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split(&self, jobs: usize) -> Result<Vec<CpuSet>, TooFewCpus> {
        let too_few = TooFewCpus { jobs, cpus: self.cpus.len() };
        if jobs == 0 {
            return Ok(Vec::new());
        }
        if jobs > self.cpus.len() {
            return Err(too_few);
        }
        // The cores of each node, each with its threads.
        let mut nodes: BTreeMap<u32, BTreeMap<u32, Vec<u32>>> = BTreeMap::new();
        for cpu in &self.cpus {
            nodes.entry(cpu.node).or_default().entry(cpu.core).or_default().push(cpu.number);
        }
        let cores: usize = nodes.values().map(BTreeMap::len).sum();
        let mut free: Vec<Vec<Vec<u32>>> = if jobs > cores {
            nodes.into_values().map(one_by_one).collect()
        } else if jobs < nodes.len() {
            // A job gets more than a node, so the borders of the nodes do not matter.
            vec![nodes.into_values().flat_map(BTreeMap::into_values).collect()]
        } else {
            nodes.into_values().map(|cores| cores.into_values().collect()).collect()
        };
        let fit = |size: usize| free.iter().map(|node| node.len() / size).sum::<usize>();
        let size = if jobs > cores { 1 } else { (1..=cores).rev().find(|size| fit(*size) >= jobs).unwrap_or(1) };
        let mut sets = Vec::with_capacity(jobs);
        for _ in 0..jobs {
            // The first of the nodes with the most free cores.
            let node = free.iter_mut().rev().max_by_key(|node| node.len()).filter(|node| node.len() >= size);
            let Some(node) = node else { return Err(too_few) };
            sets.push(node.drain(..size).flatten().collect());
        }
        Ok(sets)
    }
}

/// Returns the threads of the cores as sets of their own: the first thread of each core, then the
/// second of each, and so on.
fn one_by_one(cores: BTreeMap<u32, Vec<u32>>) -> Vec<Vec<u32>> {
    let mut threads: Vec<(usize, u32)> =
        cores.into_values().flat_map(|threads| threads.into_iter().enumerate()).collect();
    threads.sort_by_key(|(rank, _)| *rank);
    threads.into_iter().map(|(_, number)| vec![number]).collect()
}

/// Returns the NUMA nodes with their processors, as far as `/sys` shows them.
fn nodes() -> Vec<(u32, CpuSet)> {
    let entries = fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let mut nodes: Vec<(u32, CpuSet)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let cpus = fs::read_to_string(entry.path().join("cpulist")).ok()?;
            Some((number, cpus.parse().ok()?))
        })
        .collect();
    nodes.sort();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose nodes have so many cores each, with so many threads. As on most machines,
    /// the first threads of all cores come first.
    fn machine(nodes: &[u32], threads: u32) -> Topology {
        let cores: u32 = nodes.iter().sum();
        let of_nodes = nodes.iter().zip(0..).flat_map(|(count, node)| (0..*count).map(move |_| node));
        let first: Vec<(u32, u32)> = (0..).zip(of_nodes).collect();
        let all = (0..threads).flat_map(|thread| first.iter().map(move |(core, node)| (thread, *core, *node)));
        Topology { cpus: all.map(|(thread, core, node)| Cpu { number: thread * cores + core, core, node }).collect() }
    }

    #[track_caller]
    fn expect(machine: &Topology, jobs: usize, sets: &[&str]) {
        let found: Vec<String> = machine.split(jobs).unwrap().iter().map(CpuSet::to_string).collect();
        assert_eq!(found, sets);
    }

    #[test]
    fn whole_cores_come_before_threads() {
        let laptop = machine(&[4], 2);
        expect(&laptop, 1, &["0-7"]);
        expect(&laptop, 2, &["0-1,4-5", "2-3,6-7"]);
        expect(&laptop, 3, &["0,4", "1,5", "2,6"]);
        expect(&laptop, 4, &["0,4", "1,5", "2,6", "3,7"]);
        expect(&laptop, 5, &["0", "1", "2", "3", "4"]);
        expect(&laptop, 8, &["0", "1", "2", "3", "4", "5", "6", "7"]);
        assert_eq!(laptop.split(9), Err(TooFewCpus { jobs: 9, cpus: 8 }));
        assert_eq!(laptop.split(0), Ok(vec![]));
    }

    #[test]
    fn a_set_stays_on_one_node() {
        let server = machine(&[4, 4], 1);
        expect(&server, 1, &["0-7"]);
        expect(&server, 2, &["0-3", "4-7"]);
        // Two of three cores, because three would cross the border between the nodes.
        expect(&server, 3, &["0-1", "4-5", "2-3"]);
        expect(&server, 4, &["0-1", "4-5", "2-3", "6-7"]);
        expect(&server, 5, &["0", "4", "1", "5", "2"]);
        let uneven = machine(&[6, 2], 1);
        expect(&uneven, 2, &["0-2", "3-5"]);
        expect(&uneven, 4, &["0-1", "2-3", "4-5", "6-7"]);
        expect(&machine(&[1, 1, 1], 2), 2, &["0,3", "1,4"]);
    }

    #[test]
    fn no_core_is_given_twice() {
        for nodes in [&[1][..], &[2], &[3], &[8], &[2, 2], &[3, 5], &[16, 16, 16, 16], &[1, 2, 3]] {
            for threads in 1..=4 {
                let machine = machine(nodes, threads);
                for jobs in 1..=machine.cpus.len() {
                    let sets = machine.split(jobs).unwrap();
                    assert_eq!(sets.len(), jobs);
                    let all: Vec<u32> = sets.iter().flat_map(CpuSet::iter).collect();
                    assert_eq!(all.iter().copied().collect::<CpuSet>().len(), all.len(), "{nodes:?} {threads} {jobs}");
                    assert!(sets.iter().all(|set| !set.is_empty() && set.len() == sets[0].len()));
                    let cores: u32 = nodes.iter().sum();
                    let crossing = sets.iter().filter(|set| machine.nodes_of(set).len() > 1).count();
                    assert!(crossing == 0 || jobs < nodes.len());
                    let shared = |core| sets.iter().filter(|set| set.iter().any(|cpu| cpu % cores == core)).count();
                    assert!(jobs > cores as usize || (0..cores).all(|core| shared(core) <= 1));
                }
            }
        }
    }

    #[test]
    fn a_part_of_a_machine_keeps_its_shape() {
        let part = machine(&[2, 2], 2).restricted_to(&"1-2,5-6,99".parse().unwrap());
        assert_eq!(part.cpus().to_string(), "1-2,5-6");
        expect(&part, 2, &["1,5", "2,6"]);
        assert_eq!(part.nodes_of(&"2".parse().unwrap()), [1]);
    }
}
