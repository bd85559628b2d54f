# What a node needs beside `packages` to boot on its own: installed into the disk
# and ISO images only, since a box runs on its host's kernel.
dosfstools                  # the ESP
linux-image-amd64
systemd-boot-efi            # the stub of the unified kernel images and the boot loader
systemd-cryptsetup          # the generator that opens dm-verity roots
systemd-repart              # partitions at installation
