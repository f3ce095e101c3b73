// The appliance's image: Debian, the playbook that running hosts get too, and what a box on EC2 needs beyond it.
// Run it in the root of the project, after tools/build-wheels and tools/ops-venv; docs/deploy.md has each step.
//
// Debian's packer 1.6.6 supports neither plugins nor IMDSv2: packer/rehearse removes the lines between the marks
// "modern-only", and runs the rest.

# modern-only: begin
packer {
  required_version = ">= 1.10.0"
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0, < 2.0.0"
    }
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = ">= 1.1.0, < 2.0.0"
    }
  }
}
# modern-only: end

variable "region" {
  type        = string
  default     = "us-west-2"
  description = "Region in which the image is built and can be used."
}

variable "debian" {
  type        = string
  default     = "13"
  description = "Debian's release: 13 or 12."
}

variable "architecture" {
  type        = string
  default     = "amd64"
  description = "Architecture: amd64 or arm64. instance_type must match."
}

variable "instance_type" {
  type        = string
  default     = "t3.medium"
  description = "Instance type of the box that builds the image."
}

variable "release" {
  type        = string
  default     = "unnamed"
  description = "Release in the image's name, such as the output of git describe."
}

variable "ansible_playbook" {
  type        = string
  default     = "build/ops-venv/bin/ansible-playbook"
  description = "The ansible-playbook of the hash-locked environment."
}

variable "ansible_arguments" {
  type        = list(string)
  default     = []
  description = "More arguments for ansible-playbook, such as --extra-vars."
}

variable "kms_key_id" {
  type        = string
  default     = ""
  description = "KMS key of the image's disk. Empty: the account's own, whose images cannot be shared."
}

variable "ami_users" {
  type        = list(string)
  default     = []
  description = "Other accounts that may launch the image. They need kms_key_id, and rights to that key."
}

variable "guest_host" {
  type        = string
  default     = "127.0.0.1"
  description = "For the rehearsal: the address of the guest's sshd."
}

variable "guest_port" {
  type        = number
  default     = 2222
  description = "For the rehearsal: the port of the guest's sshd."
}

variable "guest_key_file" {
  type        = string
  default     = ""
  description = "For the rehearsal: the private key for root's login to the guest."
}

locals {
  built_at = formatdate("YYYYMMDD-hhmmss", timestamp())
  tags = {
    Name    = "md5s3stash ${var.release}"
    release = var.release
    debian  = var.debian
  }
}

source "amazon-ebs" "debian" {
  region          = var.region
  instance_type   = var.instance_type
  ssh_username    = "admin"
  ami_name        = "md5s3stash-${var.release}-debian-${var.debian}-${var.architecture}-${local.built_at}"
  ami_description = "md5s3stash ${var.release} on Debian ${var.debian}"
  ami_users       = var.ami_users
  tags            = local.tags
  run_tags        = local.tags
  snapshot_tags   = local.tags

  source_ami_filter {
    filters = {
      name                = "debian-${var.debian}-${var.architecture}-*"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    // Debian's own account: https://wiki.debian.org/Cloud/AmazonEC2Image
    owners      = ["136693071363"]
    most_recent = true
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = 8
    volume_type           = "gp3"
    delete_on_termination = true
    // Encrypted from the start: encrypt_boot would copy the image.
    encrypted  = true
    kms_key_id = var.kms_key_id
    # 1.6.6-only: throughput = 125
    # 1.6.6-only: iops = 3000
  }
  ena_support = true

  // Removes the key that Packer made for this build.
  ssh_clear_authorized_keys = true

  # modern-only: begin
  temporary_key_pair_type = "ed25519"
  // For boxes that are launched from the image. It gives them two hops; the launch templates of aws/template.yaml set one.
  imds_support = "v2.0"
  // For the build box.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  # modern-only: end
}

// The rehearsal: a running guest. The acceptance tests build in one.
source "null" "guest" {
  ssh_host             = var.guest_host
  ssh_port             = var.guest_port
  ssh_username         = "root"
  ssh_private_key_file = var.guest_key_file
}

build {
  sources = ["source.amazon-ebs.debian", "source.null.guest"]

  // cloud-init installs packages in the first minute of a box; two concurrent apts fail.
  provisioner "shell" {
    inline = ["if command -v cloud-init >/dev/null; then cloud-init status --wait >/dev/null || test $? -eq 2; fi"]
  }

  provisioner "ansible" {
    command          = var.ansible_playbook
    playbook_file    = "ansible/site.yml"
    use_proxy        = false
    ansible_env_vars = ["ANSIBLE_CONFIG=ansible/ansible.cfg", "ANSIBLE_HOST_KEY_CHECKING=False"]
    extra_arguments  = var.ansible_arguments
  }

  provisioner "file" {
    source      = "aws/image"
    destination = "/tmp"
  }

  provisioner "shell" {
    execute_command = "{{ .Vars }} sudo --preserve-env sh '{{ .Path }}'"
    inline          = ["cd /tmp/image", "sh ./install", "cd /", "rm -r /tmp/image"]
  }

  provisioner "shell" {
    execute_command = "{{ .Vars }} sudo --preserve-env sh '{{ .Path }}'"
    script          = "packer/clean-image"
  }

  post-processor "manifest" {
    output     = "build/packer-manifest.json"
    strip_path = true
  }
}
