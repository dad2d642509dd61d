#!/usr/bin/env python3
"""Runs test programs in a virtual machine that has NVMe drives, emulated by QEMU in software.

    vm_test.py --cache FOLDER --tool KVPOOL [--plugin SPDK_PLUGIN] PROGRAM...

The machine has Debian's kernel, an initramfs of busybox, the programs, and the libraries that they are linked with.
Its drives are known by their serial numbers (see DRIVES): the order of controllers is not that of the command line.
The kernel is fetched once and kept in FOLDER. For correctness, never for speed: everything is emulated.

Exit status: 0 all programs passed; 1 one failed, or the machine did not come to its end; 77 SKIP, with the reason.
"""

import argparse
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20
BOOT_SECONDS_MAX = 420

# What is loaded, each after what it needs, as far as the kernel has it as a module. The generic ones are algorithms that
# others look up by name.
MODULES = "crct10dif_generic crc64_rocksoft_generic crc32c_generic nvme ext4 vfio_iommu_type1 dm-mod".split()
# Loaded by the tests; what it needs is there already.
LATE_MODULE = "vfio-pci"

# serial: (MiB, options of the namespace, options of the drive, what it holds)
DRIVES = {
    "suite": (48, "", "", "nothing"),
    "fast": (96, "", "throttling.bps-total=40000000", "nothing"),
    "middle": (96, "logical_block_size=4096,physical_block_size=4096", "throttling.bps-total=20000000", "nothing"),
    "slow": (96, "", "throttling.bps-total=10000000", "nothing"),
    "bad": (96, "", "BAD", "nothing"),
    "metadata": (48, "ms=8", "", "nothing"),
    "ext4": (48, "", "", "ext4"),
    "partitions": (48, "", "", "partitions"),
    "middling": (48, "", "", "data in its middle"),
    "swap": (48, "", "", "nothing"),
    "lvm": (48, "", "", "an LVM label"),
    "raid": (48, "", "", "a RAID's superblock"),
}
# Of the drive `bad`: every discard fails, and every read of this sector. It lies where nothing is read before a drive is taken.
BAD_SECTOR = (80 * MIB + 65536) // 512


class Skip(Exception):
    pass


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **options)


def tool(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Skip(f"no {name}; scripts/packages.sh vm installs what is missing")
    return path


def kernel(cache):
    """The folder with boot/ and lib/modules/ of Debian's newest kernel."""
    package = tool("apt-cache")
    try:
        depends = run(package, "depends", "linux-image-amd64").stdout
        name = re.search(r"Depends: (linux-image-\S+)", depends)[1]
    except (subprocess.CalledProcessError, TypeError):
        raise Skip("there is no package linux-image-amd64 here (Debian has it)") from None
    folder = cache / name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        try:
            run("apt-get", "download", name, cwd=work, timeout=300)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise Skip(f"{name} cannot be fetched: {str(getattr(error, 'stderr', error)).strip()}") from None
        package = next(pathlib.Path(work).glob("*.deb"))
        unpacked = pathlib.Path(work) / "unpacked"
        run("dpkg-deb", "-x", package, unpacked)
        compressed = list(unpacked.rglob("*.ko.xz"))  # Debian 13; Busybox's insmod takes none
        if compressed:
            run("xz", "-d", *compressed)
        unpacked.rename(folder)
    return folder


def module_name(path):
    """As the kernel has it: files are named with - or _."""
    return path.name.removesuffix(".ko").replace("-", "_")


def with_what_they_need(modules, found):
    order = []

    def add(name):
        if name not in found or name in order:
            return
        needs = re.search(rb"\0depends=([^\0]*)\0", found[name].read_bytes())
        for other in needs[1].decode().split(",") if needs else []:
            add(other.replace("-", "_"))
        order.append(name)

    for module in modules:
        add(module.replace("-", "_"))
    return order


def libraries(program):
    """What the loader would load for it, the loader included."""
    listed = run("ldd", program).stdout
    return {pathlib.Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}


def place_of(library):
    """Where the loader of the machine, which has no cache of folders, looks."""
    ordinary = library.parts[1] in ("lib", "lib64", "usr")
    return library.relative_to("/") if ordinary else pathlib.Path("usr/lib/x86_64-linux-gnu") / library.name


def make_initramfs(root, kernel_folder, programs, tools, out):
    for folder in ("bin", "modules", "programs", "usr/bin"):
        (root / folder).mkdir(parents=True)
    shutil.copy(tool("busybox"), root / "bin/busybox")
    shutil.copy(HERE / "init", root / "init")
    (root / "init").chmod(0o755)
    (root / "drives").write_text(f"{len(DRIVES)}\n")
    found = {module_name(path): path for path in (kernel_folder / "lib/modules").rglob("*.ko")}
    order = with_what_they_need([*MODULES, LATE_MODULE], found)
    for name in order:
        shutil.copy(found[name], root / "modules" / f"{name}.ko")
    early = [name for name in order if name != LATE_MODULE.replace("-", "_")]
    (root / "modules/order").write_text("".join(f"{name}.ko\n" for name in early))
    for program in programs:
        shutil.copy(program, root / "programs")
    tools = (*tools, pathlib.Path(tool("dmsetup")))
    for program in tools:
        shutil.copy(program, root / "usr/bin")
    (root / "programs/order").write_text("".join(f"{program.name}\n" for program in programs))
    for library in set().union(*(libraries(program) for program in (*programs, *tools))):
        target = root / place_of(library)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    for program in (root / "programs").iterdir():
        if program.name != "order":
            run("strip", program)
    for program in tools:
        run("strip", root / "usr/bin" / program.name)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = run_bytes(tool("cpio"), "--quiet", "-o", "-H", "newc", cwd=root, data=names.encode())
    out.write_bytes(run_bytes("gzip", "-1", data=archive))


def run_bytes(*command, data, **options):
    return subprocess.run([str(part) for part in command], check=True, input=data, stdout=subprocess.PIPE, **options).stdout


def write_at(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def lvm_label():
    """As pvcreate writes it into the second sector (lvm2, lib/label/label.h)."""
    body = struct.pack("<I8s32s", 32, b"LVM2 001", b"a" * 32)
    body += bytes(512 - 20 - len(body))
    crc = zlib.crc32(body, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return struct.pack("<8sQI", b"LABELONE", 1, crc) + body


def raid_superblock(size_mib):
    """As mdadm writes it, version 1.2 (linux/raid/md_p.h): of a mirror of two, this drive the first."""
    sectors = size_mib * 2048
    block = bytearray(256 + 2 * 2)
    struct.pack_into("<IIII", block, 0, 0xA92B4EFC, 1, 0, 0)
    block[16:32] = b"u" * 16
    struct.pack_into("<iiQII", block, 72, 1, 0, sectors - 2048, 0, 2)
    struct.pack_into("<QQQ", block, 128, 2048, sectors - 2048, 8)
    struct.pack_into("<I", block, 220, 2)  # max_dev
    struct.pack_into("<HH", block, 256, 0, 1)
    total = sum(struct.unpack(f"<{len(block) // 4}I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return bytes(block)


def make_drive(path, size_mib, holds):
    with open(path, "wb") as file:
        file.truncate(size_mib * MIB)
        if holds == "data in its middle":
            for at in range(2 * MIB, (size_mib - 2) * MIB, MIB):
                file.seek(at)
                file.write(os.urandom(MIB))
    if holds == "ext4":
        run(tool("mke2fs"), "-q", "-t", "ext4", "-F", path)
    if holds == "partitions":
        run(tool("sfdisk"), "--quiet", path, input="label: gpt\n,16M\n,16M\n")
    if holds == "an LVM label":
        write_at(path, 512, lvm_label())
    if holds == "a RAID's superblock":
        write_at(path, 4096, raid_superblock(size_mib))


def drive_options(folder):
    options = []
    for number, (serial, (size_mib, of_namespace, of_drive, holds)) in enumerate(DRIVES.items()):
        path = folder / serial
        make_drive(path, size_mib, holds)
        if of_drive == "BAD":
            rule = f"inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.sector={BAD_SECTOR}"
            rule += ",inject-error.0.errno=5,inject-error.1.event=none,inject-error.1.iotype=discard,inject-error.1.errno=5"
            options += ["-blockdev", f"driver=blkdebug,node-name=drive{number},discard=unmap,{rule},"
                                     f"image.driver=file,image.filename={path}"]
        else:
            throttle = f",{of_drive}" if of_drive else ""
            options += ["-drive", f"if=none,id=drive{number},file={path},format=raw,cache=unsafe,discard=unmap{throttle}"]
        options += ["-device", f"nvme,id=nvme{number},serial={serial}",
                    "-device", f"nvme-ns,drive=drive{number},bus=nvme{number}" + (f",{of_namespace}" if of_namespace else "")]
    return options


def iommu():
    """QEMU's options and the kernel's, so that drives can be given to vfio; none where QEMU has no such device.

    The kernel's own transfers pass by the emulated IOMMU: they would be slow.
    """
    known = run(tool("qemu-system-x86_64"), "-device", "help").stdout
    if '"intel-iommu"' not in known:
        print("this QEMU has no intel-iommu: what needs one is skipped")
        return "q35,accel=tcg", [], ""
    return "q35,accel=tcg,kernel-irqchip=split", ["-device", "intel-iommu,intremap=on,aw-bits=48"], " intel_iommu=on iommu=pt"


def boot(kernel_folder, initramfs, drives):
    machine_type, iommu_device, iommu_words = iommu()
    image = next((kernel_folder / "boot").glob("vmlinuz-*"))
    memory = []
    for node in range(2):
        memory += ["-object", f"memory-backend-ram,id=memory{node},size=768M",
                   "-numa", f"node,nodeid={node},cpus={node},memdev=memory{node}"]
    command = [tool("qemu-system-x86_64"), "-machine", machine_type, *iommu_device, "-cpu", "max", "-smp", "2", "-m", "1536M", *memory,
               "-nographic", "-no-reboot", "-nic", "none", "-kernel", image, "-initrd", initramfs,
               "-append", "console=ttyS0 quiet panic=-1" + iommu_words, *drives]
    machine = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        output, _ = machine.communicate(timeout=BOOT_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        machine.kill()
        output, _ = machine.communicate()
        print(f"the machine was stopped after {BOOT_SECONDS_MAX} s")
    return output.decode(errors="replace").replace("\r", "")


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, type=pathlib.Path)
    parser.add_argument("--tool", required=True, type=pathlib.Path)
    parser.add_argument("--kernel", type=pathlib.Path, help="another: the folder of its unpacked package")
    parser.add_argument("--plugin", type=pathlib.Path, help="libkvpool_spdk.so, where SPDK is installed")
    parser.add_argument("programs", nargs="+", type=pathlib.Path)
    options = parser.parse_args(arguments)
    try:
        for name in ("qemu-system-x86_64", "cpio", "busybox", "mke2fs", "sfdisk", "dmsetup"):
            tool(name)
        kernel_folder = options.kernel.resolve() if options.kernel else kernel(options.cache.resolve())
    except Skip as reason:
        print(f"SKIP: {reason}")
        return 77
    tools = [options.tool] + ([options.plugin] if options.plugin else [])
    with tempfile.TemporaryDirectory(prefix="kvpool-vm-") as folder:
        work = pathlib.Path(folder)
        make_initramfs(work / "root", kernel_folder, options.programs, tools, work / "initramfs")
        output = boot(kernel_folder, work / "initramfs", drive_options(work))
    print(output)
    ended = dict(re.findall(r"^VM: (\S+) ended with (\d+)$", output, re.MULTILINE))
    failed = [program.name for program in options.programs if ended.get(program.name) != "0"]
    for name in failed:
        print(f"FAILED in the virtual machine: {name} ({'status ' + ended[name] if name in ended else 'did not end'})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
