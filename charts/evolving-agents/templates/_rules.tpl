{{/*
What the operator may do in a namespace that it watches. Nothing on Secrets: pods name them, kubelets read
them. No deletion of what the garbage collector deletes with its agent, unless an admission plugin asks for that
right of whoever changes owners.
*/}}
{{- define "evolving-agents.rules" -}}
- apiGroups: [evolvingagents.io]
  resources: [evolvingagents]
  verbs: [get, list, watch]
- apiGroups: [evolvingagents.io]
  resources: [agentrevisions]
  verbs: [list, watch, create, delete, patch] # patch: one without an owner becomes the agent's own
- apiGroups: [evolvingagents.io]
  resources: [evolvingagents/status, agentrevisions/status]
  verbs: [patch]
- apiGroups: [evolvingagents.io]
  resources: [evolvingagents/finalizers] # asked for by that plugin: an agent's deletion can wait for its children's
  verbs: [update]
{{- if or .Values.rbac.ownerReferencesPermissionEnforcement (.Capabilities.APIVersions.Has "security.openshift.io/v1") }}
- apiGroups: [""]
  resources: [persistentvolumeclaims, serviceaccounts, services]
  verbs: [delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [delete]
{{- end }}
- apiGroups: [""]
  resources: [configmaps] # gets those that instructionsFrom names; deletes what is owed to a provider, once paid
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims, serviceaccounts, services]
  verbs: [list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods] # their termination messages are the reports of Jobs
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases] # its own: a renewal that comes back through a watch proves that the watch lives
  resourceNames: [{{ include "evolving-agents.fullname" . | quote }}]
  verbs: [list, watch]
{{- end -}}
