#!/bin/sh
# Lays our distributions out in an image whose packages are there: layout.sh WHEELS
# WHEELS is a folder with pip's wheel, ours, and those of all dependencies. The network is not asked.
set -eu
wheels=$1

python3 -m venv --without-pip /opt/pycilium
/opt/pycilium/bin/python "$(echo "$wheels"/pip-*.whl)/pip" --quiet --disable-pip-version-check \
    install --root-user-action ignore --no-index --find-links "$wheels" pycilium
find /opt/pycilium -type d -name tests -path '*/site-packages/numpy/*' -prune -exec rm -rf {} +

# In an agent's container `cilium` means cilium-dbg, as in Cilium's; the users' command is /opt/pycilium/bin/cilium.
ln -sf /opt/pycilium/bin/cilium-dbg /usr/local/bin/cilium
for name in cilium-agent cilium-bugtool cilium-cni cilium-dbg cilium-health cilium-operator cilium-operator-generic hubble; do
    ln -sf "/opt/pycilium/bin/$name" "/usr/local/bin/$name"
done

# What Cilium's `sysdump` calls in containers, and where it looks for CNI configurations.
printf '#!/bin/sh\nexec /opt/pycilium/bin/cilium-dbg process "$@"\n' >/usr/bin/gops
chmod 755 /usr/bin/gops
mkdir -p /etc/cni
ln -sfn /host/etc/cni/net.d /etc/cni/net.d

# Whom the operator runs as.
echo 'cilium-operator:x:65532:' >>/etc/group
echo 'cilium-operator:x:65532:65532::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
